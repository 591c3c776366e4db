"""Hidden states matched point by point: OPRD, with a bridge OPRD-Bridge, and the control that PHF is measured against.

They differ in the teacher, the layers and the positions, which are their needs, and in the last block's states: the
control takes them as PHF does, OPRD as the head reads them.
"""

from dataclasses import dataclass

from phfcli.core.losses.hidden_states.pointwise import mean_cosine, pointwise_loss
from phfcli.core.models.passes import Batch, Pass, states_with_final_norm
from phfcli.core.objectives.contract import LossTerms, Needs, Term


@dataclass(frozen=True)
class PointwiseStates:
    """The squared difference of both readers' states, through the bridge where there is one."""

    weight: float
    needs: Needs
    normalized: bool

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        own, other = (
            states_with_final_norm(student, teacher) if self.needs.final_norm else (student.states, teacher.states)
        )
        if self.needs.bridge is not None:
            own, other = self.needs.bridge.project(own, other)
        loss, count = pointwise_loss(own, other, batch.valid, self.normalized)
        metrics = {
            "pointwise": (loss.detach() * count, count),
            "state_cosine": (mean_cosine(own.detach(), other, batch.valid) * count, count),
        }
        return LossTerms({"pointwise": Term(loss * count, per="states", weight=self.weight)}, metrics)
