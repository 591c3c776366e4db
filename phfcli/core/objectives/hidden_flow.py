"""PHF's term: the flow of hidden states along the rollout."""

from dataclasses import dataclass

from phfcli.core.losses.hidden_states.flow import Local, flow_loss, flow_terms, layer_losses, terms_of_blocks
from phfcli.core.models.layer_choice import pick_layers
from phfcli.core.models.passes import Batch, Pass
from phfcli.core.objectives.contract import LossTerms, Needs, Term


@dataclass(frozen=True)
class HiddenFlow:
    """The flow of hidden states along the rollout (eqs. 4 to 13), in the paper's variants."""

    alpha: float
    needs: Needs
    adjacent: bool = True
    local: Local = "both"

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        terms = flow_terms(student.states, teacher.states, batch.valid, weights=batch.position_weights)
        if self.needs.next_layers:
            terms = terms_of_blocks(terms, student.layers, pick_layers(self.needs.layers, student.depth))
        loss = flow_loss(terms, adjacent=self.adjacent, local=self.local)
        count = terms.samples
        layer_energy = layer_losses(terms).detach()  # eq. 8, [L]
        metrics = {
            "flow": (loss.detach() * count, count),
            "flow_direction": (terms.direction.detach().mean() * count, count),
            "flow_geometry": (terms.geometry.detach().mean() * count, count),
            "flow_adjacent": (terms.adjacent.detach().sum() / max(len(terms.adjacent), 1) * count, count),
            "layer_energy": (layer_energy * count, count),
        }
        return LossTerms({"flow": Term(loss * count, per="flows", weight=self.alpha)}, metrics)
