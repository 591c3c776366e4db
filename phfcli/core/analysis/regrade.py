"""Grades saved samples under several policies, and finds the samples on which they differ."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from phfcli.core.analysis.saved_samples import SavedText, SavedTexts
from phfcli.core.evaluation.scores import average
from phfcli.core.grading import Grade, Status, build_grader
from phfcli.core.names import PolicyName


@dataclass(frozen=True)
class Row:
    """One way to grade the samples.

    Attributes:
        name: a policy, or the tool's own score as "stored: NAME".
        scores: of each sample, 0 or 1; of a stored score it may be a problem's mean.
        statuses: how many samples have which; none for a stored score.
    """

    name: str
    average: float
    stderr: float | None
    scores: Sequence[float]
    statuses: Mapping[str, int]

    @property
    def of_each_sample(self) -> bool:
        return set(self.scores) <= {0.0, 1.0}


@dataclass(frozen=True)
class Regrading:
    """Samples under several policies."""

    form: str
    texts: Sequence[SavedText]
    rows: Sequence[Row]
    grades: Mapping[PolicyName, Sequence[Grade]]

    def disagreements(self) -> list[tuple[str, str, float, int]]:
        """Every two rows that score each sample: b's score minus a's, and on how many samples they differ."""
        comparable = [row for row in self.rows if row.of_each_sample]
        return [
            (a.name, b.name, b.average - a.average, sum(x != y for x, y in zip(a.scores, b.scores, strict=True)))
            for a, b in combinations(comparable, 2)
        ]

    def differing(self) -> list[dict[str, Any]]:
        """The samples on which two rows differ: what each read, and what it made of it."""
        comparable = [row for row in self.rows if row.of_each_sample]
        return [
            {
                "problem": text.problem,
                "sample": text.number,
                "gold": list(text.golds),
                "cut": text.cut,
                "policies": {
                    name: {"status": str(own[place].status), "answer": own[place].answer}
                    for name, own in self.grades.items()
                },
                "stored": dict(text.stored),
                "text": text.text,
            }
            for place, text in enumerate(self.texts)
            if len({row.scores[place] for row in comparable}) > 1
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "problems": len({text.problem for text in self.texts}),
            "samples": len(self.texts),
            "scores": [
                {"name": row.name, "average": row.average, "stderr": row.stderr, "statuses": dict(row.statuses)}
                for row in self.rows
            ],
            "disagreements": [
                {"a": a, "b": b, "difference": points, "samples": count} for a, b, points, count in self.disagreements()
            ],
            "differing": self.differing(),
        }


def regrade(saved: SavedTexts, policies: Sequence[PolicyName], timeout_s: float) -> Regrading:
    """Grades under each policy; the tool's own scores stand beside them."""
    grades = {policy: _grades(saved.texts, policy, timeout_s) for policy in policies}
    rows = [
        _row(
            policy,
            saved.texts,
            [float(grade.status == Status.correct) for grade in own],
            Counter(str(grade.status) for grade in own),
        )
        for policy, own in grades.items()
    ]
    names = dict.fromkeys(name for text in saved.texts for name in text.stored)
    rows += [
        _row(f"stored: {name}", saved.texts, [text.stored.get(name, 0.0) for text in saved.texts], {}) for name in names
    ]
    return Regrading(saved.form, saved.texts, rows, grades)


def _grades(texts: Sequence[SavedText], policy: PolicyName, timeout_s: float) -> list[Grade]:
    with build_grader("math", timeout_s, policy) as grader:
        read = [grader.reads_cut or not text.cut for text in texts]
        pairs = [(text.golds, text.text) for text, graded in zip(texts, read, strict=True) if graded]
        found = iter(grader.grade(pairs))
    return [next(found) if graded else Grade(Status.truncated, None) for graded in read]


def _row(name: str, texts: Sequence[SavedText], scores: Sequence[float], statuses: Mapping[str, int]) -> Row:
    by_problem: dict[str, list[float]] = {}
    for text, score in zip(texts, scores, strict=True):
        by_problem.setdefault(text.problem, []).append(score)
    mean = average(list(by_problem.values()))
    return Row(name, mean.average, mean.stderr, scores, statuses)
