"""A distillation in which some tokens count for more than others."""

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from phfcli.core.losses.policy_gradient import token_logprobs, token_logprobs_and_entropy
from phfcli.core.losses.token_weights import after, normalised, prefix_importance, ramp
from phfcli.core.models.passes import Batch, Pass
from phfcli.core.objectives.contract import LossTerms, Needs, Objective


@dataclass(frozen=True)
class Weighted:
    """The objective on batches whose tokens have weights, with the mean 1 over each completion.

    Attributes:
        kind: of the weights, as config.weights names it.
        temperature: of both distributions, where the weights are read from them.
        fork_entropy: nats above which a token is a fork.
    """

    objective: Objective
    kind: str
    temperature: float
    fork_entropy: float

    @property
    def needs(self) -> Needs:
        return self.objective.needs

    def loss(self, student: Pass, teacher: Pass | None, batch: Batch) -> LossTerms:
        assert teacher is not None
        return self.objective.loss(student, teacher, replace(batch, weights=self.weights(student, teacher, batch)))

    @torch.no_grad()
    def weights(self, student: Pass, teacher: Pass, batch: Batch) -> Tensor:
        """[N]"""
        rows, offsets = batch.tokens
        lengths = batch.lengths[rows]
        return normalised(self._raw(student, teacher, batch, offsets, lengths), offsets, lengths)

    def _raw(self, student: Pass, teacher: Pass, batch: Batch, offsets: Tensor, lengths: Tensor) -> Tensor:
        if self.kind in ("early", "late"):
            return ramp(offsets, lengths, falling=self.kind == "early")
        if skipped := re.fullmatch(r"skip-first-(\d+)", self.kind):
            return after(offsets, int(skipped[1]))
        read = student.hidden, student.head, batch.token_ids, self.temperature
        if self.kind == "forks":
            entropy = token_logprobs_and_entropy(*read)[1]
            return (entropy > self.fork_entropy).to(entropy.dtype)
        taught = token_logprobs(teacher.hidden, teacher.head, batch.token_ids, self.temperature)
        return prefix_importance(token_logprobs(*read), taught, offsets)
