"""Every check, in order; each finding as it is found."""

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from phfcli.core.doctor import steps
from phfcli.core.doctor.finding import Finding, warning
from phfcli.core.doctor.machine import machine


def examine(model: str | None, processes: int | None, engine: str | None, quick: bool) -> Iterator[Finding]:
    """Proves the machine.

    Args:
        model: whose memory and time are measured as well; None leaves it out.
        processes: a step is also made in so many; 1 leaves it out, None is one for each GPU.
        engine: "vllm" fails where it is not there; None tries it where it is installed.
        quick: only what is installed, and a step on each device.
    """
    yield from machine()
    with tempfile.TemporaryDirectory(prefix="phf-doctor-") as name:
        folder = Path(name)
        for device in steps.devices():
            yield steps.reference_step(folder, device)
        if quick:
            return
        yield steps.killed_and_resumed(folder)
        if (together := processes or torch.cuda.device_count()) > 1:
            yield steps.several_processes(folder, together)
        if engine == "vllm" or find_spec("vllm") is not None:
            yield from steps.vllm(folder)
        else:
            yield warning("vLLM", "is not installed", "install it to sample fast on GPUs: pip install -e '.[vllm]'")
        if model is not None:
            yield steps.memory_of(folder, model)
