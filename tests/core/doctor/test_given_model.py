"""Memory and hours of the model that somebody means to train."""

from collections.abc import Callable
from pathlib import Path

import pytest

from phfcli.core.doctor.program import Program
from phfcli.core.doctor.steps import _recipe_hours, memory_of

Plant = Callable[[str], None]


@pytest.mark.slow
def test_memory_beyond_the_plan_is_a_warning(plant: Plant, tmp_path: Path) -> None:
    """The optimizer leaks a gigabyte."""
    plant(
        "import torch\nown, kept = torch.optim.AdamW.step, []\n"
        "def step(self, *args, **kwargs):\n"
        "    kept.append(torch.ones(2**28))\n"
        "    return own(self, *args, **kwargs)\n"
        "torch.optim.AdamW.step = step\n"
    )
    finding = memory_of(Program(tmp_path), "embedded")
    assert (finding.state, finding.fix) == ("warning", "leave more room than the plan says")
    assert finding.figures["measured_bytes"] > finding.figures["predicted_bytes"] + 2**30


def test_the_hours_are_those_of_the_paper_s_run() -> None:
    """100 steps of 32 rollouts of 1,024 tokens."""
    assert _recipe_hours(0.001) == pytest.approx(100 * 32 * 1024 * 0.001 / 3600)
