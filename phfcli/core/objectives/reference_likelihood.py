"""SFT: the reference solutions as targets."""

from dataclasses import dataclass

from phfcli.core.config import SftSettings
from phfcli.core.losses.policy_gradient import token_logprobs_and_entropy
from phfcli.core.models.passes import Batch, Pass
from phfcli.core.objectives.contract import LossTerms, Needs, Term, TokenReadings


@dataclass(frozen=True)
class ReferenceLikelihood:
    """Cross-entropy of the reference solution after the student's prompt; the prompt itself is no target."""

    settings: SftSettings

    @property
    def needs(self) -> Needs:
        return Needs(completions=0, teacher=False, privileged=False, max_tokens=self.settings.max_tokens)

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        logprobs, entropy = token_logprobs_and_entropy(student.hidden, student.head, batch.token_ids)
        total = -logprobs.sum()
        count = total.new_tensor(len(logprobs))
        return LossTerms({"nll": Term(total, per="tokens")}, {"nll": (total.detach(), count)}, TokenReadings(entropy))
