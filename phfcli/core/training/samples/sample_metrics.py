"""What a step's metrics say of its completions and of what the teacher was shown."""

from collections.abc import Sequence

from phfcli.core.grading import Status, last_box
from phfcli.core.models.passes import Sample
from phfcli.core.training.health.rollout_metrics import distinct_answers, repetition
from phfcli.core.training.metrics import Metrics
from phfcli.core.training.parts import TrainingParts
from phfcli.core.types import Completion, Problem


def rollout_metrics(run: TrainingParts, completions: Sequence[Completion], samples: Sequence[Sample]) -> Metrics:
    """Means over the completions of all ranks."""
    sums = {
        "rollout_tokens": sum(len(c.ids) for c in completions),
        "truncated": sum(c.finish == "length" for c in completions),
        "repetition": sum(repetition(c.ids) for c in completions),
        **({"reward": sum(s.reward for s in samples)} if run.objective.needs.reward else {}),
        "count": len(completions),
    }
    totals = run.ranks.total(sums)
    count = totals.pop("count")
    metrics = {name: total / count for name, total in totals.items()}
    if (size := run.objective.needs.group_size) > 1:
        answers = [last_box(run.model.description.text(c.ids)) for c in completions]
        metrics["distinct_answers"] = distinct_answers(run.ranks.gather(answers), size)
    return metrics


def context_metrics(run: TrainingParts, problems: Sequence[Problem], shown: Sequence[str | None]) -> Metrics:
    """The share of problems whose teacher is shown another answer than the gold; of drawn contexts those there."""
    if not run.objective.needs.privileged:
        return {}
    own = [problems[index] for index in run.ranks.share(len(problems))]
    pairs = [(p.golds, text) for p, text in zip(own, shown, strict=True) if p.golds and text and last_box(text)]
    wrong = sum(grade.status == Status.wrong for grade in run.grader.grade(pairs))
    there = sum(text is not None for text in shown)
    totals = run.ranks.total({"wrong": wrong, "pairs": len(pairs), "there": there, "all": len(shown)})
    metrics = {"foreign_answers": totals["wrong"] / totals["pairs"]} if totals["pairs"] else {}
    return metrics | ({"siblings": totals["there"] / totals["all"]} if run.curriculum.context.drawn else {})
