"""A hidden-state loss of one's own: OPSD plus the cosine between both readers' states, whatever their length."""

from dataclasses import dataclass

from torch.nn.functional import cosine_similarity

import phfcli as phf
from phfcli.core.config import TrainConfig
from phfcli.core.models.passes import Batch, Pass
from phfcli.core.objectives.contract import LossTerms, Needs, Sum, Term
from phfcli.core.objectives.distillation import OutputDivergence


@dataclass(frozen=True)
class CosineStates:
    """1 - cosine of the states [L, B, m, d]: the mean over layers and selected positions, summed over samples."""

    weight: float
    needs: Needs = Needs(layers="all", positions=32)

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        apart = 1 - cosine_similarity(student.states.float(), teacher.states.float(), dim=-1).mean(dim=0)  # [B, m]
        total = ((apart * batch.valid).sum(-1) / batch.valid.sum(-1).clamp_min(1)).sum()
        count = batch.valid.any(-1).sum()
        return LossTerms({"cosine": Term(total, per="states", weight=self.weight)}, {"apart": (total.detach(), count)})


def build(config: TrainConfig) -> Sum:
    return Sum(OutputDivergence(config.divergence, config.rollout.temperature), CosineStates(weight=0.1))


if __name__ == "__main__":
    phf.register_objective("cosine-states", build)
    run = phf.train(objective="cosine-states", steps=2, config={"batch_size": 4, "rollout.max_new_tokens": 48})
    print(run.metrics.to_pandas()[["loss", "apart"]])
