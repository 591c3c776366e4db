"""What an adapter covers, in figures and in words: at start, in `--dry-run` and in a run's manifest."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from phfcli.core.models.adapters.targets import Targets, counts


@dataclass(frozen=True)
class AdapterSummary:
    """How much of a model an adapter trains.

    Attributes:
        modules: how many there are of each name.
        count: of all of them.
        parameters: of the adapter.
        share: the adapter's parameters over the base model's.
        covered: of the parameters of the decoder blocks, the share in modules that are adapted.
        left_out: what is not adapted although it is a matrix, with the reason.
    """

    modules: dict[str, int]
    count: int
    parameters: int
    share: float
    covered: float
    left_out: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """What is told at start."""
        names = ", ".join(f"{count} x {name}" for name, count in self.modules.items())
        return [
            f"adapter on {self.count} modules: {names}",
            f"it has {self.parameters:,} parameters, {100 * self.share:.2f}% of the model's; the modules hold "
            f"{100 * self.covered:.1f}% of its decoder blocks",
            *(f"not adapted: {sentence}" for sentence in self.left_out),
        ]


def summarise_adapter(network: nn.Module, causal: nn.Module, blocks: nn.Module, targets: Targets) -> AdapterSummary:
    """The summary of an adapter that is the network's only trainable part."""
    adapter = {id(p): p.numel() for p in network.parameters() if p.requires_grad}
    base = sum(p.numel() for p in causal.parameters() if id(p) not in adapter)
    within = sum(p.numel() for p in blocks.parameters() if id(p) not in adapter)
    below = [causal.get_submodule(name) for name in targets.modules]
    covered = sum(p.numel() for module in below for p in module.parameters() if id(p) not in adapter)
    parameters = sum(adapter.values())
    return AdapterSummary(
        dict(counts(targets.modules)),
        len(targets.modules),
        parameters,
        parameters / max(base, 1),
        covered / max(within, 1),
        targets.left_out,
    )
