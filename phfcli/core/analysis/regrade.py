"""Grades saved samples under several policies, and finds the samples on which the policies differ."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from phfcli.core.analysis.saved_samples import SavedText, SavedTexts
from phfcli.core.evaluation.scores import Average, average
from phfcli.core.grading import Grade, Status, build_grader
from phfcli.core.names import PolicyName


@dataclass(frozen=True)
class GradedSamples:
    """The scores of all samples under one policy, or as the tool that saved them stored them.

    Attributes:
        name: the policy, or "stored: NAME" for a score of the tool.
        scores: 0 or 1 for each sample; a stored score may be the mean over a problem's samples, or None for a sample
            to which the tool gave none. The average is over the others.
        statuses: status -> number of samples; empty for a stored score.
    """

    name: str
    average: float
    stderr: float | None
    scores: Sequence[float | None]
    statuses: Mapping[str, int]

    @property
    def per_sample(self) -> bool:
        """Whether each sample that has a score has its own, 0 or 1."""
        return set(self.scores) <= {0.0, 1.0, None}


@dataclass(frozen=True)
class Regrading:
    """The same samples under several policies."""

    form: str
    texts: Sequence[SavedText]
    rows: Sequence[GradedSamples]
    grades: Mapping[PolicyName, Sequence[Grade]]
    notes: Sequence[str] = ()

    def disagreements(self) -> list[tuple[str, str, float, int]]:
        """(a, b, average of b minus that of a, number of samples on which they differ) for every two rows.

        Only samples count to which both rows give a score.
        """
        return [
            found
            for a, b in combinations([row for row in self.rows if row.per_sample], 2)
            if (found := self._disagreement(a, b)) is not None
        ]

    def _disagreement(self, a: GradedSamples, b: GradedSamples) -> tuple[str, str, float, int] | None:
        both = [
            (text, x, y)
            for text, x, y in zip(self.texts, a.scores, b.scores, strict=True)
            if x is not None and y is not None
        ]
        if not both:
            return None
        texts, xs, ys = zip(*both, strict=True)
        difference = _average(texts, ys).average - _average(texts, xs).average
        return a.name, b.name, difference, sum(x != y for x, y in zip(xs, ys, strict=True))

    def differing(self) -> list[dict[str, Any]]:
        """The samples on which two rows differ, with each policy's answer and status."""
        comparable = [row for row in self.rows if row.per_sample]
        return [
            {
                "problem": text.problem,
                "sample": text.number,
                "gold": list(text.golds),
                "cut": text.cut,
                "policies": {
                    name: {"status": str(grades[index].status), "answer": grades[index].answer}
                    for name, grades in self.grades.items()
                },
                "stored": dict(text.stored),
                "text": text.text,
            }
            for index, text in enumerate(self.texts)
            if len({row.scores[index] for row in comparable} - {None}) > 1
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "problems": len({text.problem for text in self.texts}),
            "samples": len(self.texts),
            "scores": [
                {
                    "name": row.name,
                    "average": row.average,
                    "stderr": row.stderr,
                    "samples": sum(score is not None for score in row.scores),
                    "statuses": dict(row.statuses),
                }
                for row in self.rows
            ],
            "disagreements": [
                {"a": a, "b": b, "difference": points, "samples": count} for a, b, points, count in self.disagreements()
            ],
            "differing": self.differing(),
            "notes": list(self.notes),
        }


def regrade(saved: SavedTexts, policies: Sequence[PolicyName], timeout_s: float) -> Regrading:
    """Grades saved samples under each policy; the scores that the tool stored are added as further rows."""
    grades = {policy: _grades(saved, policy, timeout_s) for policy in policies}
    rows = [
        _row(
            policy,
            saved.texts,
            [float(grade.status == Status.correct) for grade in policy_grades],
            Counter(str(grade.status) for grade in policy_grades),
        )
        for policy, policy_grades in grades.items()
    ]
    names = dict.fromkeys(name for text in saved.texts for name in text.stored)
    rows += [
        _row(f"stored: {name}", saved.texts, [text.stored.get(name) for text in saved.texts], {}) for name in names
    ]
    return Regrading(saved.form, saved.texts, rows, grades, saved.notes)


def _grades(saved: SavedTexts, policy: PolicyName, timeout_s: float) -> list[Grade]:
    with build_grader(saved.grader, timeout_s, policy) as grader:
        gradable = [grader.reads_cut or not text.cut for text in saved.texts]
        pairs = [(text.golds, text.text) for text, graded in zip(saved.texts, gradable, strict=True) if graded]
        grades = iter(grader.grade(pairs))
    return [next(grades) if graded else Grade(Status.truncated, None) for graded in gradable]


def _row(
    name: str, texts: Sequence[SavedText], scores: Sequence[float | None], statuses: Mapping[str, int]
) -> GradedSamples:
    mean = _average(texts, scores)
    return GradedSamples(name, mean.average, mean.stderr, scores, statuses)


def _average(texts: Sequence[SavedText], scores: Sequence[float | None]) -> Average:
    """The average over problems, of the samples that have a score."""
    by_problem: dict[str, list[float]] = {}
    for text, score in zip(texts, scores, strict=True):
        if score is not None:
            by_problem.setdefault(text.problem, []).append(score)
    return average(list(by_problem.values()))
