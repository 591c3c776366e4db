"""Every check, in order; each finding as it is found."""

import tempfile
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import torch

from phfcli.core.doctor import steps
from phfcli.core.doctor.machine import MachineCheck, machine, warning
from phfcli.core.doctor.program import Program
from phfcli.core.doctor.steps import memory_of, vllm


def examine(model: str | None, processes: int | None, engine: str | None, quick: bool) -> Generator[MachineCheck]:
    """Proves the machine.

    Args:
        model: whose memory and time are measured as well; None leaves it out.
        processes: a step is also made in so many; 1 leaves it out, None is one for each GPU.
        engine: whose rollouts are tried as well: "vllm" fails where it is not there, "transformers" starts none; None
            tries vLLM where it is installed.
        quick: only what is installed, and a step on each device.
    """
    yield from machine()
    with tempfile.TemporaryDirectory(prefix="phf-doctor-") as name:
        program = Program(Path(name))
        for device in steps.devices():
            for dtype in steps.WAYS:
                yield steps.reference_step(program, device, dtype)
        if quick:
            return
        if (together := processes or torch.cuda.device_count()) > 1:
            yield steps.several_processes(program, together)
        yield steps.killed_and_resumed(program)
        if engine == "vllm" or (engine is None and find_spec("vllm") is not None):
            yield from vllm(program)
        elif engine is None:
            yield warning("vLLM", "is not installed", "install it to sample fast on GPUs: pip install -e '.[vllm]'")
        if model is not None:
            yield memory_of(program, model)
