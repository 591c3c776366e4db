"""Lists the samples that an evaluation draws, and grades them."""

from collections.abc import Sequence
from dataclasses import dataclass

from phfcli.core.evaluation.benches.benchmarks import Benchmark
from phfcli.core.evaluation.sample_file import GradedSample
from phfcli.core.grading import Grading, Status
from phfcli.core.models.description import ModelDescription
from phfcli.core.seeds import derive_seed
from phfcli.core.types import Completion, Problem


@dataclass(frozen=True)
class SampleTask:
    """One sample to draw."""

    problem: Problem
    number: int
    seed: int


def sample_tasks(bench: Benchmark, n: int, seed: int) -> list[SampleTask]:
    """n samples of each problem, each with a seed of its own."""
    return [SampleTask(p, i, derive_seed(seed, p.problem, i)) for p in bench.problems for i in range(n)]


def grade(
    drawn: Sequence[tuple[SampleTask, Completion]], description: ModelDescription, grader: Grading
) -> list[GradedSample]:
    """Grades drawn completions; one that the token limit has cut is "truncated", or `cut` where it is graded anyhow."""
    texts = [description.text(completion.ids) for _, completion in drawn]
    cut = [completion.finish != "stop" for _, completion in drawn]
    read = [i for i in range(len(drawn)) if grader.reads_cut or not cut[i]]
    graded = grader.grade([(drawn[i][0].problem.golds, texts[i]) for i in read])
    grades = dict(zip(read, graded, strict=True))
    samples = []
    for i, (task, completion) in enumerate(drawn):
        verdict = grades.get(i)
        samples.append(
            {
                "problem": task.problem.id,
                "sample": task.number,
                "status": str(verdict.status if verdict else Status.truncated),
                "answer": verdict.answer if verdict else None,
                "gold": " or ".join(task.problem.golds) or None,
                "tokens": len(completion.ids),
                "seed": task.seed,
                "text": texts[i],
                **({"cut": True} if verdict and cut[i] else {}),
            }
        )
    return samples
