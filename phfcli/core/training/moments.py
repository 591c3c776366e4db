"""AdamW whose moments wait in the machine's memory between updates."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from phfcli.core.models.device import in_machine_memory

PART_BYTES = 256 * 2**20  # of weights that are updated together: so much of each moment is on the GPU at once
_MOMENTS = ("exp_avg", "exp_avg_sq")


class AwayAdamW(torch.optim.AdamW):
    """Updates a part of the weights after the other, each with its own moments, by AdamW's own code.

    An update is elementwise, so its result does not depend on what is updated beside it.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        (group,) = self.param_groups
        try:
            for part in _parts(group["params"]):
                self._bring(part)
                self.param_groups = [group | {"params": part}]
                super().step()
                self.put_away(part)
        finally:
            self.param_groups = [group]

    def put_away(self, weights: Sequence[Tensor] | None = None) -> None:
        """Moves the moments of some weights, or of all, to the machine's memory."""
        for p in self.param_groups[0]["params"] if weights is None else weights:
            state = self.state[p]
            state.update({name: in_machine_memory(state[name]) for name in _MOMENTS if name in state})

    def _bring(self, weights: Sequence[Tensor]) -> None:
        for p in weights:
            state = self.state[p]
            state.update({name: state[name].to(p.device) for name in _MOMENTS if name in state})


def _parts(weights: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The weights in their order, in parts of about so many bytes."""
    part: list[nn.Parameter] = []
    for p in weights:
        if part and sum(other.nbytes for other in part) + p.nbytes > PART_BYTES:
            yield part
            part = []
        part.append(p)
    if part:
        yield part
