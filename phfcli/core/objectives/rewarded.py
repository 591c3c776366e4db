"""A distillation that also learns from the task's reward."""

from dataclasses import dataclass, replace

from phfcli.core.models.passes import Batch, Pass
from phfcli.core.objectives.contract import LossTerms, Needs, Objective
from phfcli.core.objectives.group_policy import GroupPolicy


@dataclass(frozen=True)
class Rewarded:
    """The distillation plus `weight` times GRPO's loss, on the same completions of groups of one problem."""

    distillation: Objective
    policy: GroupPolicy
    weight: float

    @property
    def needs(self) -> Needs:
        return replace(self.distillation.needs, completions=self.policy.needs.completions, reward=True)

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        rewarded = self.policy.loss(student, None, batch)
        terms = {name: replace(term, weight=self.weight * term.weight) for name, term in rewarded.terms.items()}
        return self.distillation.loss(student, teacher, batch) + replace(rewarded, terms=terms)
