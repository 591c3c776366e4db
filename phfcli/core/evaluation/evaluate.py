"""Evaluates a model: samples n completions per problem, grades each and writes it at once, then computes the scores."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from phfcli.core.config import EvalConfig, PromptSettings, TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.evaluation.average import average
from phfcli.core.evaluation.benchmarks import Benchmark, check_golds, load_benchmarks
from phfcli.core.evaluation.overlap import Overlap, overlaps_of
from phfcli.core.evaluation.sample_file import GradedSample, Key, SampleFile
from phfcli.core.evaluation.sample_page import write_page
from phfcli.core.evaluation.sample_tasks import SampleTask, grade, sample_tasks
from phfcli.core.evaluation.scores import score_notes, summarise
from phfcli.core.grading import Grading, Status, build_grader
from phfcli.core.models.adapters.files import check_adapter
from phfcli.core.models.chat_template import PLAIN_TEMPLATE
from phfcli.core.models.description import ModelDescription, load_description, pick_device, pick_dtype
from phfcli.core.models.prompts import Prompts, build_prompts
from phfcli.core.rollouts.build_engine import evaluation_engine
from phfcli.core.rollouts.engine import Engine, Serving
from phfcli.core.runs.checkpoint_choice import Target, find_target
from phfcli.core.runs.layout import evaluation_folder
from phfcli.core.runs.provenance import environment, model_identity, now
from phfcli.core.runs.run_folder import saved_config
from phfcli.core.settings import resolve
from phfcli.core.storage.background_writer import BackgroundWriter
from phfcli.core.storage.files import file_hash, write_json
from phfcli.core.storage.locks import kept
from phfcli.core.storage.schemas import AdapterForm, EvaluationSettingsForm, ManifestForm, read_form
from phfcli.core.types import Completion, Request, Sampling

PUBLISHED_NEW_TOKENS = 38_912
OUR_POLICY = "phf"

Progress = Callable[["EvaluationProgress"], None]
Warn = Callable[[str], None]


@dataclass(frozen=True)
class EvaluationProgress:
    """The progress of an evaluation; `average` and `stderr` are of the samples so far."""

    bench: str
    done: int
    total: int
    average: float
    stderr: float | None
    tokens: int
    seconds: float


class RunningAverage:
    """The running figures of one benchmark."""

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

    def running(self, seconds: float) -> EvaluationProgress:
        so_far = average(list(self._scores.values()))
        done = sum(map(len, self._scores.values()))
        return EvaluationProgress(self._bench, done, self._total, so_far.average, so_far.stderr, self._tokens, seconds)


@dataclass
class Evaluator:
    """One model, served once, with everything that its benchmarks share."""

    config: EvalConfig
    target: Target
    description: ModelDescription
    prompts: Prompts
    engine: Engine
    identity: dict[str, Any]  # what must not change between two parts of one evaluation
    overlaps: Mapping[str, Overlap] = field(default_factory=dict)  # with training data

    def run(self, bench: Benchmark, grader: Grading, on_progress: Progress) -> dict[str, Any]:
        """Samples what is missing, grades it, and returns the summary, which is also on disk.

        Raises:
            UserError: where the folder holds samples of other settings, or a prompt does not fit.
        """
        sampling = sampling_of(self.config, self.description, self.prompts, bench)
        file = SampleFile(self.folder(bench, sampling))
        about = {"created": now(), "engine_options": self.config.vllm.model_dump(), **environment(self._device)}
        with file.claim(self._settings(bench, sampling), about):
            seconds = self._sample(file, bench, grader, sampling, on_progress)
            samples = file.read(bench.problems, self.config.n)
            summary = {
                **summarise(samples, bench.problems, grader, self.config.n),
                "bench": bench.name,
                "unusable_golds": list(bench.unusable),
                "target": self.target.name,
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
            if bench.name in self.overlaps:
                summary["overlap"] = self.overlaps[bench.name].as_json(bench.name)
                summary["notes"].append(summary["overlap"]["sentence"])
            write_json(file.folder / "summary.json", summary)
            write_page(file.folder / "samples.html", summary, bench.problems, list(samples.values()))
        return summary

    def folder(self, bench: Benchmark, sampling: Sampling) -> Path:
        """RUN/evals/step-000100/BENCH-nN; what is not a run gets such a folder under runs/.

        Where that folder was sampled or graded under other settings, they are added to the name.
        """
        run = Path(self.config.output_dir) if self.config.output_dir else self.target.run
        name = f"{bench.name}-n{self.config.n}"
        plain = evaluation_folder(run or Path("runs") / self.target.name, self.target.step, name)
        if not (plain / "settings.json").is_file():
            return plain
        before = read_form(plain / "settings.json", EvaluationSettingsForm)
        own = self._settings(bench, sampling)
        sampled = {key for key in ("sampling", "seed", "prompt") if key in before and before[key] != own[key]}
        graded = before.get("grading", OUR_POLICY) != self.config.grading
        marks = [*([_sampling_name(own)] if sampled else []), *([f"graded-{self.config.grading}"] if graded else [])]
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
            | ({} if (chat := self.prompts.chat_template) is None else {"chat_template": chat}),
            "sampling": asdict(sampling),
            "grader": bench.grader,
            "grading": self.config.grading,
        }

    def _policy(self) -> dict[str, str]:
        """The grading policy for the summary, where it is not ours."""
        return {} if self.config.grading == OUR_POLICY else {"grading": self.config.grading}

    def _sample(
        self, file: SampleFile, bench: Benchmark, grader: Grading, sampling: Sampling, on_progress: Progress
    ) -> float:
        """Draws and grades every (problem, sample) that is not on disk yet; returns the seconds spent so far."""
        done = file.read(bench.problems, self.config.n)
        running_average = RunningAverage(bench.name, len(bench.problems) * self.config.n, done)
        tasks = [
            j for j in sample_tasks(bench, self.config.n, self.config.seed) if (j.problem.id, j.number) not in done
        ]
        prompts = {p.id: tuple(self.prompts.student(p.problem)) for p in bench.problems}
        requests = [Request(prompts[task.problem.id], task.seed) for task in tasks]
        started = time.perf_counter()

        def record(drawn: Sequence[tuple[SampleTask, Completion]]) -> None:
            seconds = running_average.seconds_before + time.perf_counter() - started
            samples = [{**sample, "seconds": round(seconds, 3)} for sample in grade(drawn, self.description, grader)]
            file.append(samples)
            running_average.add(samples)
            on_progress(running_average.running(seconds))

        with BackgroundWriter(record) as recorder:  # grading hides behind generation
            for index, completion in self.engine.sample(requests, sampling, logprobs=False):
                recorder.put((tasks[index], completion))
        return running_average.seconds_before + time.perf_counter() - started


def evaluate(
    config: EvalConfig, on_start: Callable[[Evaluator], None], on_progress: Progress, warn: Warn
) -> list[dict[str, Any]]:
    """Evaluates config.model on each of config.bench; returns their summaries.

    Raises:
        UserError: for anything the user can fix; all of it is looked at before the model's weights are loaded.
    """
    target = find_target(config.model, config.base)
    with _kept(target):
        return _evaluate(config, target, on_start, on_progress, warn)


@contextmanager
def _kept(target: Target) -> Iterator[None]:
    """A checkpoint of a live run stays while it is evaluated, whatever the run removes."""
    if target.run is None:
        yield
        return
    folder = target.adapter or Path(target.model)
    with kept(folder / "trainer.json"):
        yield


def _evaluate(
    config: EvalConfig, target: Target, on_start: Callable[[Evaluator], None], on_progress: Progress, warn: Warn
) -> list[dict[str, Any]]:
    benches = load_benchmarks(config.bench, config)
    overlaps = overlaps_of(config, target, benches)
    description = load_description(target.model)
    identity = _identity(config, target)
    if target.adapter is not None:
        check_adapter(target.adapter, description)
        _check_base(target, identity["model"])
    prompts = build_prompts(description.tokenizer, prompt_settings(config, target))
    if prompts.chat_template == PLAIN_TEMPLATE:
        warn(prompts.notes()[1])
    if trained := _trained_otherwise(config, target):
        warn(trained)
    length = max(_longest(prompts, b) + sampling_of(config, description, prompts, b).max_new_tokens for b in benches)
    serving = Serving(config.model_copy(update={"model": target.model}), length, target.adapter)
    with ExitStack() as stack:
        names = dict.fromkeys(bench.grader for bench in benches)
        graders = {name: stack.enter_context(_grader(name, config)) for name in names}
        benches = [check_golds(bench, graders[bench.grader]) for bench in benches]
        engine = stack.enter_context(closing(evaluation_engine(config, serving, warn)))
        evaluation = Evaluator(config, target, description, prompts, engine, identity, overlaps)
        on_start(evaluation)
        return [evaluation.run(bench, graders[bench.grader], on_progress) for bench in benches]


def _grader(name: str, config: EvalConfig) -> Grading:
    if name != "math" and config.grading != OUR_POLICY:
        raise UserError(f"grading: {config.grading} grades mathematics, and grader {name!r} is a rule of its own")
    return build_grader(name, config.grader_timeout_s, config.grading)


def _sampling_name(settings: Mapping[str, Any]) -> str:
    """Sampling settings as a part of a folder's name: t0.6-p0.95-k0-2048tokens-seed1-a1b2c3, the last of the prompt."""
    own = settings["sampling"]
    prompt = hashlib.sha256(json.dumps(settings["prompt"], sort_keys=True).encode()).hexdigest()[:6]
    name = f"t{own['temperature']:g}-p{own['top_p']:g}-k{own['top_k']}-{own['max_new_tokens']}tokens"
    return f"{name}-seed{settings['seed']}-{prompt}"


def sampling_of(config: EvalConfig, description: ModelDescription, prompts: Prompts, bench: Benchmark) -> Sampling:
    """The sampling settings of a benchmark. Raises UserError if prompt and new tokens exceed the model's context."""
    longest = _longest(prompts, bench)
    room = description.context - longest
    wanted = config.max_new_tokens or min(PUBLISHED_NEW_TOKENS, room)
    if not 0 < wanted <= room:
        raise UserError(
            f"--max-new-tokens: the longest prompt of {bench.name} takes {longest} tokens, which leaves "
            f"{max(room, 0)} of the model's context of {description.context}"
        )
    return Sampling(config.temperature, config.top_p, config.top_k, wanted)


def _longest(prompts: Prompts, bench: Benchmark) -> int:
    return max(len(prompts.student(p.problem)) for p in bench.problems)


def _identity(config: EvalConfig, target: Target) -> dict[str, Any]:
    return {
        "model": model_identity(target.model),
        "adapter_sha256": file_hash(target.adapter / "adapter_model.safetensors") if target.adapter else None,
        "adapter_config": _adapter_config_hash(target.adapter) if target.adapter else None,
        "dtype": str(pick_dtype(config.dtype, pick_device(config.device))),
        "quantization": config.quantization,
    }


def _adapter_config_hash(adapter: Path) -> str:
    """A hash of what an adapter's config says; the order of its keys and lists means nothing and is not stable."""

    def ordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: ordered(value[key]) for key in sorted(value)}
        return sorted(map(ordered, value), key=json.dumps) if isinstance(value, list) else value

    return hashlib.sha256(
        json.dumps(ordered(read_form(adapter / "adapter_config.json", AdapterForm))).encode()
    ).hexdigest()


def _check_base(target: Target, model: Mapping[str, Any]) -> None:
    """Raises UserError where an adapter of a run is put on other weights than those it was trained on."""
    if target.run is None:
        return
    trained_on = read_form(target.run / "manifest.json", ManifestForm)["model"]
    for key in ("sha256", "revision"):
        if key in trained_on and key in model and trained_on[key] != model[key]:
            raise UserError(
                f"{target.adapter}: was trained on {trained_on['name']} with {key} {trained_on[key]}, "
                f"and {target.model} has {model[key]}; name the right base model with --base"
            )


def _trained_otherwise(config: EvalConfig, target: Target) -> str | None:
    """A sentence where an adapter was trained over its base in another form than it is evaluated over."""
    if target.run is None or target.adapter is None:
        return None
    trained, own = resolve(TrainConfig, [saved_config(target.run)]).quantization, config.quantization
    if trained == own:
        return None
    words = {"none": "as it stands"}
    return (
        f"{target.name} was trained over its base {words.get(trained, f'in {trained}')} and is evaluated over it "
        f"{words.get(own, f'in {own}')}; --set quantization={trained} takes the former"
    )


def prompt_settings(config: EvalConfig, target: Target) -> PromptSettings:
    """The prompts to evaluate with: those that the run was trained with, unless others are asked for."""
    if config.prompt == PromptSettings() and target.run is not None:
        return resolve(TrainConfig, [saved_config(target.run)]).prompt
    return config.prompt
