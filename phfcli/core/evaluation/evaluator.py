"""Evaluates a model: draws the missing samples, grades and writes each at once, then computes the scores."""

import datetime
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from phfcli.core.config import EvalConfig
from phfcli.core.errors import UserError
from phfcli.core.evaluation.benchmarks import Benchmark, check_golds, load_benchmarks
from phfcli.core.evaluation.overlap import Overlap, overlaps_of
from phfcli.core.evaluation.samples import (
    GradedSample,
    Key,
    SampleFile,
    SampleTask,
    grade,
    greedy_of,
    longest_sequence,
    prompt_settings,
    sample_tasks,
    sampling_of,
)
from phfcli.core.evaluation.samples_page import write_page
from phfcli.core.evaluation.scores import average, score_notes, summarise
from phfcli.core.extensions import code_of
from phfcli.core.grading import Grading, Status, build_grader
from phfcli.core.models.adapters import check_adapter
from phfcli.core.models.description import ModelDescription, load_description
from phfcli.core.models.device import pick_device, pick_dtype
from phfcli.core.models.prompts import PLAIN_TEMPLATE, Prompts, build_prompts
from phfcli.core.rollouts.build import evaluation_engine
from phfcli.core.rollouts.chat import served_model
from phfcli.core.rollouts.engine import Engine, Serving
from phfcli.core.rollouts.single import by_chat
from phfcli.core.runs.folder import environment, evaluation_folder, model_identity, now, recorded_config, run_name
from phfcli.core.runs.model_card import card_of
from phfcli.core.runs.summaries import write_summary
from phfcli.core.runs.targets import Target, find_target
from phfcli.core.storage.files import BackgroundWriter, check_folder, file_hash, kept
from phfcli.core.storage.schemas import AdapterForm, EvaluationSettingsForm, ManifestForm, read_form
from phfcli.core.storage.seals import write_sealed
from phfcli.core.types import Completion, Request, Sampling

OUR_POLICY = "phf"  # the default grading policy
SHORT = 4096  # tokens: what a greedy completion that loops may cost of a thinking model


@dataclass(frozen=True)
class EvaluationProgress:
    """The progress of an evaluation; `average` and `stderr` are those of the samples so far."""

    bench: str
    done: int
    total: int
    average: float
    stderr: float | None
    tokens: int
    seconds: float


Progress = Callable[[EvaluationProgress], None]
Warn = Callable[[str], None]


class RunningAverage:
    """The average of one benchmark while it is sampled."""

    def __init__(self, bench: str, total: int, done: Mapping[Key, GradedSample]) -> None:
        self._bench, self._total = bench, total
        self._scores: dict[str, list[float]] = {}
        self._tokens = 0
        self.seconds_before = max((s["seconds"] for s in done.values()), default=0.0)
        self.add(list(done.values()))

    def add(self, samples: Sequence[GradedSample]) -> None:
        for sample in samples:
            self._scores.setdefault(sample["problem"], []).append(float(sample["status"] == Status.correct))
            self._tokens += sample["tokens"]

    def progress(self, seconds: float) -> EvaluationProgress:
        so_far = average(list(self._scores.values()))
        done = sum(map(len, self._scores.values()))
        return EvaluationProgress(self._bench, done, self._total, so_far.average, so_far.stderr, self._tokens, seconds)


@dataclass
class Evaluator:
    """One model with its engine and prompts, which all its benchmarks share."""

    config: EvalConfig
    target: Target
    description: ModelDescription
    prompts: Prompts
    engine: Engine
    identity: dict[str, Any]  # see `identity_of`
    overlaps: Mapping[str, Overlap] = field(default_factory=dict)  # with training data, by benchmark

    def run(self, bench: Benchmark, grader: Grading, on_progress: Progress) -> dict[str, Any]:
        """Draws and grades the missing samples; writes and returns the summary.

        Raises:
            UserError: the folder holds samples of other settings, or a prompt does not fit.
        """
        sampling = sampling_of(self.config, self.description, self.prompts, bench)
        file = SampleFile(self.folder(bench, sampling))
        about = {"created": now(), "engine_options": self.config.vllm.model_dump(), **environment(self._device)}
        with file.claim(self._settings(bench, sampling), about):
            seconds = self._sample(file, bench, grader, sampling, on_progress)
            samples = file.read(bench.problems, self.config.n)
            summary = {
                **summarise(samples, bench.problems, grader, self.config.n),
                **self._greedy(file, bench, grader, sampling, on_progress),
                "bench": bench.name,
                "unusable_golds": list(bench.unusable),
                "target": run_name(file.folder) or self.target.name,
                "step": self.target.step,
                "engine": self.engine.name,
                "seconds": seconds,
                "tokens_per_s": sum(s["tokens"] for s in samples.values()) / max(seconds, 1e-9),
                "bench_sha256": bench.sha256,
                "bench_source": bench.source,
                "sampling": asdict(sampling),
                **self._policy(),
                "folder": str(file.folder),
            }
            summary["notes"] = [*bench.notes, *score_notes(summary)]
            if by_chat(self.config):
                summary["notes"].append(
                    f"{bench.name}: drawn by chat completions: the server's template, its precision and what it makes "
                    "of a seed are unknown, and tokens are as it counts them"
                )
            if bench.name in self.overlaps:
                summary["overlap"] = self.overlaps[bench.name].as_json(bench.name)
                summary["notes"].append(summary["overlap"]["sentence"])
            (file.folder / "summary.json").unlink(missing_ok=True)  # an old one covers the files that are replaced now
            file.write_table(samples.values(), bench.problems, summary)
            prompt_ids = self.prompts.student(bench.problems[0].problem)
            prompt = str(self.description.tokenizer.decode(prompt_ids))
            write_page(file.page, summary, bench.problems, list(samples.values()), prompt)
            return write_summary(file.folder, summary)

    def folder(self, bench: Benchmark, sampling: Sampling) -> Path:
        """RUN/evals/step-000100/BENCH-nN; a model without a run gets such a folder under runs/.

        If that folder holds samples of other sampling or grading settings, the present ones are added to the name.
        """
        plain, name = _plain_folder(self.config, self.target, bench), f"{bench.name}-n{self.config.n}"
        if not (plain / "settings.json").is_file():
            return plain
        before = read_form(plain / "settings.json", EvaluationSettingsForm)
        settings = self._settings(bench, sampling)
        sampled = {key for key in ("sampling", "seed", "prompt") if key in before and before[key] != settings[key]}
        graded = before.get("grading", OUR_POLICY) != self.config.grading
        marks = [
            *([_sampling_name(settings)] if sampled else []),
            *([f"graded-{self.config.grading}"] if graded else []),
        ]
        return plain.with_name("+".join([name, *marks]))

    @property
    def _device(self) -> Any:
        return pick_device(self.config.device)

    def _settings(self, bench: Benchmark, sampling: Sampling) -> dict[str, Any]:
        return {
            **self.identity,
            "engine": self.engine.name,
            "bench_sha256": bench.sha256,
            "n": self.config.n,
            "seed": self.config.seed,
            "prompt": {"template": self.prompts.student_template, "thinking": self.prompts.thinking}
            | ({} if (chat := self.prompts.chat_template) is None else {"chat_template": chat})
            | ({} if (day := self.prompts.day) is None else {"day": str(day)}),
            "sampling": asdict(sampling),
            "grader": bench.grader,
            "grading": self.config.grading,
            **({"code": code} if (code := self._own_code(bench)) else {}),
        }

    def _own_code(self, bench: Benchmark) -> dict[str, str]:
        return code_of([("engines", self.config.engine), ("graders", bench.grader), ("benchmarks", bench.plugin)])

    def _policy(self) -> dict[str, str]:
        """The grading policy for the summary, if it is not the default."""
        return {} if self.config.grading == OUR_POLICY else {"grading": self.config.grading}

    def _greedy(
        self, samples: SampleFile, bench: Benchmark, grader: Grading, sampling: Sampling, on_progress: Progress
    ) -> dict[str, float | None]:
        """The score of one greedy completion of each problem, if it is wanted, with its standard error over problems.

        A model that thinks at length is not decoded greedily unless it is asked for: it loops, and the authors of such
        models advise against it.
        """
        thinks = self.prompts.thinking and (self.prompts.has_thinking_mode or by_chat(self.config))
        thinks = thinks and sampling.max_new_tokens > SHORT
        wanted = not thinks if self.config.greedy is None else self.config.greedy
        if not wanted or sampling.temperature == 0:  # then the samples are greedy themselves
            return {}
        file = replace(samples, greedy=True)
        self._sample(file, bench, grader, greedy_of(sampling), on_progress)
        drawn = file.read(bench.problems, 1)
        score = average([[float(drawn[p.id, 0]["status"] == Status.correct)] for p in bench.problems])
        return {"greedy": score.average, "greedy_stderr": score.stderr}

    def _sample(
        self, file: SampleFile, bench: Benchmark, grader: Grading, sampling: Sampling, on_progress: Progress
    ) -> float:
        """Draws and grades every sample that is not on disk yet; returns the seconds spent, earlier parts included."""
        n, name = (1, f"{bench.name}, greedy") if file.greedy else (self.config.n, bench.name)
        done = file.read(bench.problems, n)
        running_average = RunningAverage(name, len(bench.problems) * n, done)
        tasks = [j for j in sample_tasks(bench, n, self.config.seed) if (j.problem.id, j.number) not in done]
        prompts = {p.id: tuple(self.prompts.student(p.problem)) for p in bench.problems}
        requests = [Request(prompts[task.problem.id], task.seed) for task in tasks]
        started = time.perf_counter()

        def record(drawn: Sequence[tuple[SampleTask, Completion]]) -> None:
            seconds = running_average.seconds_before + time.perf_counter() - started
            samples = [{**sample, "seconds": round(seconds, 3)} for sample in grade(drawn, self.description, grader)]
            file.append(samples)
            running_average.add(samples)
            on_progress(running_average.progress(seconds))

        with BackgroundWriter(record) as recorder:  # a thread grades while the engine generates
            for index, completion in self.engine.sample(requests, sampling, logprobs=False):
                recorder.put((tasks[index], completion))
        return running_average.seconds_before + time.perf_counter() - started


def _sampling_name(settings: Mapping[str, Any]) -> str:
    """Sampling settings as part of a folder's name: t0.6-p0.95-k0-2048tokens-seed1-HASH, with a hash of the prompt."""
    sampling = settings["sampling"]
    prompt = hashlib.sha256(json.dumps(settings["prompt"], sort_keys=True).encode()).hexdigest()[:6]
    name = (
        f"t{sampling['temperature']:g}-p{sampling['top_p']:g}-k{sampling['top_k']}-{sampling['max_new_tokens']}tokens"
    )
    return f"{name}-seed{settings['seed']}-{prompt}"


def target_of(config: EvalConfig) -> Target:
    """What is evaluated: on a server with chat completions a model of that name, else what the name leads to."""
    if not by_chat(config):
        return find_target(config.model, config.base)
    name = re.sub(r"[^\w.-]+", "-", config.model).strip(".-") or "model"
    return Target(name, config.model, config.model)


def describe(config: EvalConfig, target: Target) -> ModelDescription:
    """The target's config and tokenizer; of a model behind chat completions what stands in their place."""
    return served_model(target.model) if by_chat(config) else load_description(target.model)


def evaluate(
    config: EvalConfig, on_start: Callable[[Evaluator], None], on_progress: Progress, warn: Warn
) -> list[dict[str, Any]]:
    """Evaluates config.model on each of config.bench; returns the summaries.

    Raises:
        UserError: anything that the user can fix; it is checked before the model's weights are loaded.
    """
    target = target_of(config)
    with _held_checkpoint(target):
        return _evaluate(config, target, on_start, on_progress, warn)


def _evaluate(
    config: EvalConfig, target: Target, on_start: Callable[[Evaluator], None], on_progress: Progress, warn: Warn
) -> list[dict[str, Any]]:
    check_folder("output_dir", Path(config.output_dir) if config.output_dir else target.run or Path("runs"))
    benches = load_benchmarks(config.bench, config)
    overlaps = overlaps_of(config, target, benches)
    description = describe(config, target)
    identity = identity_of(config, target)
    if target.adapter is not None:
        check_adapter(target.adapter, description)
        check_base(target, identity["model"])
    today = _day_before(config, target, benches)  # of an evaluation that goes on
    wording = prompt_settings(config, target)
    prompts = build_prompts(description.tokenizer, wording, vocabulary=description.vocabulary, today=today)
    if prompts.chat_template == PLAIN_TEMPLATE:
        warn(prompts.notes()[1])
    if mismatch := quantization_mismatch(config, target):
        warn(mismatch)
    length = max(longest_sequence(config, description, prompts, bench) for bench in benches)
    serving = Serving(config.model_copy(update={"model": target.model}), length, target.adapter)
    with ExitStack() as stack:
        names = dict.fromkeys(bench.grader for bench in benches)
        graders = {name: stack.enter_context(_grader(name, config)) for name in names}
        benches = [check_golds(bench, graders[bench.grader]) for bench in benches]
        engine = stack.enter_context(closing(evaluation_engine(config, serving, warn)))
        evaluation = Evaluator(config, target, description, prompts, engine, identity, overlaps)
        on_start(evaluation)
        summaries = [evaluation.run(bench, graders[bench.grader], on_progress) for bench in benches]
    if target.adapter is not None and target.run is not None and target.step is not None:
        # not for a checkpoint of all weights: the card is among the files whose hash identifies such a model
        try:
            write_sealed(target.adapter / "README.md", card_of(target.run, target.step))
        except UserError as error:  # another evaluation of the run is damaged; this one is complete
            warn(f"the model card keeps its old scores: {error}")
    return summaries


def _plain_folder(config: EvalConfig, target: Target, bench: Benchmark) -> Path:
    """The folder of an evaluation, before its settings are compared with those of samples that are there."""
    run = Path(config.output_dir) if config.output_dir else target.run
    return evaluation_folder(run or Path("runs") / target.name, target.step, f"{bench.name}-n{config.n}")


def _day_before(config: EvalConfig, target: Target, benches: Sequence[Benchmark]) -> datetime.date | None:
    """The first day that prompts of samples which are there say; None where they say none."""
    files = [_plain_folder(config, target, bench) / "settings.json" for bench in benches]
    prompts = [read_form(file, EvaluationSettingsForm).get("prompt", {}) for file in files if file.is_file()]
    return min((datetime.date.fromisoformat(prompt["day"]) for prompt in prompts if prompt.get("day")), default=None)


@contextmanager
def _held_checkpoint(target: Target) -> Iterator[None]:
    """Keeps a training run from removing the checkpoint while it is evaluated."""
    if target.run is None:
        yield
        return
    folder = target.adapter or Path(target.model)
    with kept(folder / "trainer.json"):
        yield


def _grader(name: str, config: EvalConfig) -> Grading:
    if name != "math" and config.grading != OUR_POLICY:
        raise UserError(
            f"grading: {config.grading} is a policy for mathematics, and the grader {name!r} has no policies"
        )
    return build_grader(name, config.grader_timeout_s, config.grading)


def identity_of(config: EvalConfig, target: Target) -> dict[str, Any]:
    """The part of settings.json that identifies the model. It must not change when an evaluation is continued."""
    if by_chat(config):
        unknown = dict.fromkeys(("revision", "template", "seed", "precision"), "unknown")
        no_adapter = dict.fromkeys(("adapter_sha256", "adapter_config"))
        return {
            "model": {"name": target.model, **unknown},
            **no_adapter,
            "dtype": "unknown",
            "quantization": "unknown",
        }
    manifest = None if target.run is None else target.run / "manifest.json"
    known = read_form(manifest, ManifestForm)["model"] if manifest and manifest.is_file() else None
    return {
        "model": model_identity(target.model, known),
        "adapter_sha256": file_hash(target.adapter / "adapter_model.safetensors") if target.adapter else None,
        "adapter_config": _adapter_config_hash(target.adapter) if target.adapter else None,
        "dtype": str(pick_dtype(config.dtype, pick_device(config.device))),
        "quantization": config.quantization,
    }


def _adapter_config_hash(adapter: Path) -> str:
    """A hash of an adapter's config that ignores the order of keys and lists, which PEFT does not keep."""

    def ordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: ordered(value[key]) for key in sorted(value)}
        return sorted(map(ordered, value), key=json.dumps) if isinstance(value, list) else value

    return hashlib.sha256(
        json.dumps(ordered(read_form(adapter / "adapter_config.json", AdapterForm))).encode()
    ).hexdigest()


def check_base(target: Target, model: Mapping[str, Any]) -> None:
    """Raises UserError if the base model is not the one on which the run's adapter was trained."""
    if target.run is None:
        return
    trained_on = read_form(target.run / "manifest.json", ManifestForm)["model"]
    for key in ("sha256", "revision"):
        if key in trained_on and key in model and trained_on[key] != model[key]:
            raise UserError(
                f"{target.adapter}: was trained on {trained_on['name']} with {key} {trained_on[key]}, "
                f"and {target.model} has {model[key]}; set base to the right model"
            )


def quantization_mismatch(config: EvalConfig, target: Target) -> str | None:
    """A warning if the base model was quantised otherwise in the adapter's training; else None."""
    if target.run is None or target.adapter is None:
        return None
    trained, evaluated = recorded_config(target.run).quantization, config.quantization
    if trained == evaluated:
        return None
    words = {"none": "unquantized"}
    return (
        f"{target.name} was trained with its base {words.get(trained, f'in {trained}')} and is evaluated with it "
        f"{words.get(evaluated, f'in {evaluated}')}; set quantization to {trained} to evaluate it as it was trained"
    )
