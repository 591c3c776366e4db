"""One model that is served once: samples what is missing of a benchmark, grades it and writes it at once."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from phfcli.core.config import EvalConfig
from phfcli.core.evaluation.benches.benchmarks import Benchmark
from phfcli.core.evaluation.benches.overlap import Overlap
from phfcli.core.evaluation.page.sample_page import write_page
from phfcli.core.evaluation.progress import EvaluationProgress, RunningAverage
from phfcli.core.evaluation.sample_file import SampleFile
from phfcli.core.evaluation.sample_tasks import SampleTask, grade, sample_tasks
from phfcli.core.evaluation.sampling import sampling_of
from phfcli.core.evaluation.scores import score_notes, summarise
from phfcli.core.grading import Grading
from phfcli.core.models.description import ModelDescription, pick_device
from phfcli.core.models.prompts import Prompts
from phfcli.core.rollouts.engine import Engine
from phfcli.core.runs.checkpoint_choice import Target
from phfcli.core.runs.layout import evaluation_folder, run_name
from phfcli.core.runs.provenance import environment, now
from phfcli.core.storage.background_writer import BackgroundWriter
from phfcli.core.storage.files import write_json
from phfcli.core.storage.schemas import EvaluationSettingsForm, read_form
from phfcli.core.types import Completion, Request, Sampling

OUR_POLICY = "phf"

Progress = Callable[[EvaluationProgress], None]


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
            if bench.name in self.overlaps:
                summary["overlap"] = self.overlaps[bench.name].as_json(bench.name)
                summary["notes"].append(summary["overlap"]["sentence"])
            write_json(file.folder / "summary.json", summary)
            file.write_table(samples.values(), bench.problems, summary)
            read = self.prompts.student(bench.problems[0].problem)
            prompt = str(self.description.tokenizer.decode(read))
            write_page(file.folder / "samples.html", summary, bench.problems, list(samples.values()), prompt)
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


def _sampling_name(settings: Mapping[str, Any]) -> str:
    """Sampling settings as a part of a folder's name: t0.6-p0.95-k0-2048tokens-seed1-a1b2c3, the last of the prompt."""
    own = settings["sampling"]
    prompt = hashlib.sha256(json.dumps(settings["prompt"], sort_keys=True).encode()).hexdigest()[:6]
    name = f"t{own['temperature']:g}-p{own['top_p']:g}-k{own['top_k']}-{own['max_new_tokens']}tokens"
    return f"{name}-seed{settings['seed']}-{prompt}"
