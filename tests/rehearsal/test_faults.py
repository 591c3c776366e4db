"""Faults that only an accelerator shows are found here: each is planted, and a command ends in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phfcli.core.losses import flow

On = Callable[..., str]
SMALL = ("--quiet", "--set", "batch_size=2", "--set", "micro_batch_size=2", "--set", "rollout.max_new_tokens=6")
DIRECTIONS, MASK = flow.directions, flow.transition_mask


def a_tensor_of_the_cpu(states: Tensor, *rest: Any) -> Tensor:
    found = DIRECTIONS(states, *rest)
    return found + torch.zeros(found.shape)


def numpy_of_a_state(states: Tensor, *rest: Any) -> Tensor:
    assert states.detach().numpy() is not None
    return DIRECTIONS(states, *rest)


def a_generator_of_the_cpu(states: Tensor, *rest: Any) -> Tensor:
    noise = torch.rand(states.shape, device=states.device, generator=torch.Generator())
    return DIRECTIONS(states + 0 * noise, *rest)


def a_mask_of_the_cpu(valid: Tensor) -> Tensor:
    return MASK(valid).cpu()


def stays(tensor: Tensor, _device: torch.device) -> Tensor:
    return tensor


FAULTS: dict[str, tuple[str, Any, str]] = {
    "a tensor of the CPU in a loss": ("losses.flow.directions", a_tensor_of_the_cpu, "on the same device"),
    "a state as an array": ("losses.flow.directions", numpy_of_a_state, "use Tensor.cpu"),
    "a generator of the CPU": ("losses.flow.directions", a_generator_of_the_cpu, "device type for generator"),
    "a mask of the CPU": ("losses.flow.transition_mask", a_mask_of_the_cpu, "on the same device"),
    "a packed row left on the CPU": ("models.packing.to_device", stays, "on the same device"),
    "a batch left on the CPU": ("models.passes.to_device", stays, "on the same device"),
    "rewards left on the CPU": ("objectives.policy.to_device", stays, "on the same device"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(on: On, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    where, planted, message = FAULTS[fault]
    objective = "grpo" if "policy" in where else "phf"
    monkeypatch.setattr(f"phfcli.core.{where}", planted)
    words = ("train", "--steps", 1, *SMALL, "--objective", objective, "--output-dir", tmp_path / "run")
    assert message in on("sim", *words, fails=True)
