"""Validation: evaluates every so many steps of a training with its engine, to find the best checkpoint.

It samples from its own seeds and does not affect training: a run ends with bitwise the same weights without it.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phfcli.core.config import EvalConfig, TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.evaluation.benchmarks import check_golds, load_benchmark
from phfcli.core.evaluation.samples import GradedSample, SampleTask, grade, sample_tasks, sampling_of
from phfcli.core.evaluation.scores import average
from phfcli.core.grading import Grading, Status
from phfcli.core.models.description import ModelDescription
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.prompts import Prompts
from phfcli.core.rollouts.engine import TrainingEngine
from phfcli.core.runs.folder import VALIDATIONS, step_name
from phfcli.core.storage.schemas import ValidationForm, read_forms
from phfcli.core.storage.seals import append_sealed
from phfcli.core.training.ranks import Ranks
from phfcli.core.types import Request, Sampling

ValidationResult = dict[str, Any]  # a line of evaluations.jsonl


@dataclass
class Validation:
    """The benchmark that is evaluated during training, and the results so far."""

    folder: Path  # of the run
    bench: str
    bench_sha256: str
    every: int  # steps between evaluations
    patience: int | None  # training ends after so many evaluations without a better one
    tasks: list[SampleTask]
    requests: list[Request]
    sampling: Sampling
    results: list[ValidationResult] = field(default_factory=list)

    def due(self, step: int, last: int) -> bool:
        """Whether to evaluate after this step; always after the last one."""
        return step % self.every == 0 or step == last

    @property
    def best(self) -> ValidationResult | None:
        """The result with the highest average, the earliest of equals."""
        return max(self.results, key=lambda result: (result["average"], -result["step"]), default=None)

    @property
    def exhausted(self) -> bool:
        """Whether `patience` evaluations have passed since the best one, so that training ends."""
        if self.patience is None or self.best is None:
            return False
        return len(self.results) - 1 - self.results.index(self.best) >= self.patience

    def run(
        self, step: int, model: LanguageModel, engine: TrainingEngine, grader: Grading, ranks: Ranks
    ) -> ValidationResult:
        """Evaluates the present weights, with the samples shared among ranks, and writes the result to disk."""
        started = time.perf_counter()
        share = ranks.share(len(self.tasks))
        engine.update(model)
        requests = [self.requests[index] for index in share]
        completions = sorted(engine.sample(requests, self.sampling, logprobs=False), key=lambda pair: pair[0])
        drawn = [(self.tasks[share[index]], completion) for index, completion in completions]
        samples = ranks.gather(grade(drawn, model.description, grader))
        result = {"step": step, "bench": self.bench, **_figures(samples), "seconds": time.perf_counter() - started}
        self.results.append(result)
        if ranks.main:
            append_sealed(self.folder / VALIDATIONS, [result])
        return result

    def read(self, step: int) -> None:
        """Reads the results up to a step, from which a run is resumed."""
        self.results = [line for line in read_forms(self.folder / VALIDATIONS, ValidationForm) if line["step"] <= step]

    def point(self) -> None:
        """Makes RUN/best a link to the best checkpoint."""
        link, temporary = self.folder / "best", self.folder / ".best.tmp"
        if self.best is None:
            link.unlink(missing_ok=True)
            return
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(Path("checkpoints", step_name(self.best["step"])))
        temporary.replace(link)


def build_validation(
    config: TrainConfig, folder: Path, description: ModelDescription, prompts: Prompts, grader: Grading
) -> Validation | None:
    """The validation of the settings, or None without one.

    Raises:
        UserError: without a benchmark, or for one that cannot be read or whose prompts do not fit into the context.
    """
    settings = config.evaluation
    if settings.every is None:
        if settings.patience is not None:
            raise UserError("evaluation.patience: there is nothing to wait for without evaluation.every")
        return None
    if settings.bench is None:
        raise UserError("evaluation.every: name a benchmark or a file in evaluation.bench")
    protocol = EvalConfig(
        model=config.model,
        columns=config.columns,
        grader=config.grader,
        limit=settings.limit,
        max_new_tokens=settings.max_new_tokens or config.rollout.max_new_tokens,
    )
    bench = load_benchmark(settings.bench, protocol)
    if bench.grader != config.grader:
        raise UserError(f"evaluation.bench: {bench.name} has its own grader; set grader to {bench.grader}")
    bench = check_golds(bench, grader)
    tasks = sample_tasks(bench, settings.n, protocol.seed)
    return Validation(
        folder=folder,
        bench=bench.name,
        bench_sha256=bench.sha256,
        every=settings.every,
        patience=settings.patience,
        tasks=tasks,
        requests=[Request(tuple(prompts.student(task.problem.problem)), task.seed) for task in tasks],
        sampling=sampling_of(protocol, description, prompts, bench),
    )


def _figures(samples: list[GradedSample]) -> ValidationResult:
    """The scores over the samples of all ranks."""
    scores: dict[str, list[float]] = {}
    for sample in samples:
        scores.setdefault(sample["problem"], []).append(float(sample["status"] == Status.correct))
    mean, statuses = average(list(scores.values())), Counter(sample["status"] for sample in samples)
    return {
        "problems": mean.problems,
        "n": len(samples) // mean.problems,
        "average": mean.average,
        "stderr": mean.stderr,
        "truncated": statuses[Status.truncated],
        "loops": sum(sample["looped"] for sample in samples),
        "grader_failures": statuses[Status.timeout] + statuses[Status.error],
        "mean_tokens": sum(sample["tokens"] for sample in samples) / len(samples),
    }
