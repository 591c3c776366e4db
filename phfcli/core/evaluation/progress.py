"""The running figures of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from phfcli.core.evaluation.average import average
from phfcli.core.evaluation.sample_file import GradedSample, Key
from phfcli.core.grading import Status


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
