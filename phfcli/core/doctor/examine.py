"""Runs all checks of the doctor in order."""

import tempfile
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

from phfcli.core.doctor import steps
from phfcli.core.doctor.machine import MachineCheck, machine, warning
from phfcli.core.doctor.program import Program
from phfcli.core.doctor.steps import memory_of, vllm
from phfcli.core.models.device import device_count


def examine(model: str | None, processes: int | None, engine: str | None, quick: bool) -> Generator[MachineCheck]:
    """Checks the machine; yields each result as soon as it is known.

    Args:
        model: a model whose memory and step time are measured; None skips that check.
        processes: the number of processes in which a step is repeated; 1 skips that check, None is one for each GPU.
        engine: "vllm" checks vLLM and fails if it is not installed, "transformers" skips that check, None checks vLLM
            if it is installed.
        quick: whether to check only what is installed, and one step on each device.
    """
    yield from machine()
    with tempfile.TemporaryDirectory(prefix="phf-doctor-", ignore_cleanup_errors=True) as name:
        program = Program(Path(name))
        for device in steps.devices():
            for dtype in steps.WAYS:
                yield steps.reference_step(program, device, dtype)
        if quick:
            return
        if (count := processes or device_count()) > 1:
            yield steps.several_processes(program, count)
        yield steps.killed_and_resumed(program)
        if engine == "vllm" or (engine is None and find_spec("vllm") is not None):
            yield from vllm(program)
        elif engine is None:
            yield warning("vLLM", "is not installed", "install it to sample fast on GPUs: pip install -e '.[vllm]'")
        if model is not None:
            yield memory_of(program, model)
