"""What a step takes, and its phases."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from phfcli.core.names import PHASES


def step_times(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of a step and of each of its phases, of a run; the first one has warmed up for the others."""
    names = ["seconds", *(f"{phase}_seconds" for phase in PHASES)]
    return {name: median(line[name] for line in lines[1:] or lines) for name in names}


def told_times(times: Mapping[str, float]) -> str:
    """The same in words."""
    phases = ", ".join(f"{phase} {times[f'{phase}_seconds']:.2f}" for phase in PHASES)
    return f"{times['seconds']:.2f} s a step ({phases})"
