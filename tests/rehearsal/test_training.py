"""Training on the accelerator is that of the CPU: the first step to the bit, but for the gradient's norm.

Sums over gradients are rounded in another order there, and AdamW's first steps make the most of a rounding: so the rate
is a third of the embedded model's.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from pretended_accelerator import CALLS
from trained import assert_near_weights, metrics, same_tensors

On = Callable[..., str]
SMALL = (
    "--quiet",
    "--set",
    "dtype=float32",
    "--set",
    "optim.lr=1e-4",
    "--set",
    "batch_size=4",
    "--set",
    "micro_batch_size=2",
    "--set",
    "rollout.max_new_tokens=12",
)
STEP = Path("checkpoints/step-000002")


def trained(on: On, device: str, folder: Path, *settings: str, steps: int = 2) -> Path:
    sets = [word for setting in settings for word in ("--set", setting)]
    on(device, "train", "--steps", steps, *SMALL, "--output-dir", folder, *sets)
    return folder


def assert_same(on: On, folder: Path, *settings: str) -> None:
    """Two steps on both devices give the same metrics, and weights to 1e-6.

    In bfloat16 the CPU has kernels of its own, and its own casts where all weights train: what it rounds is near.
    """
    here, there = (trained(on, device, folder / device, *settings) for device in ("cpu", "sim"))
    assert CALLS, "nothing ran on the accelerator"
    own, wanted = metrics(there), metrics(here)
    assert own[0].keys() == wanted[0].keys()
    if "dtype=bfloat16" in settings:
        assert own[0]["loss"] == pytest.approx(wanted[0]["loss"], rel=0.02)
        assert own[0]["grad_norm"] == pytest.approx(wanted[0]["grad_norm"], rel=0.05)
        return
    for name, value in wanted[0].items():
        rounded = name in ("grad_norm", "teacher_distance")
        assert own[0][name] == (pytest.approx(value, rel=1e-5) if rounded else value), name
    assert own[1]["loss"] == pytest.approx(wanted[1]["loss"], rel=1e-3, abs=1e-6)
    assert own[1]["rollout_tokens"] == wanted[1]["rollout_tokens"]
    assert_near_weights(there, here)


OBJECTIVES = {
    "phf": (),
    "phf-local": (),
    "direction": (),
    "pointwise": (),
    "opsd": ("divergence.clip=null",),
    "sft": (),
    "grpo": ("grpo.group_size=2",),
    "oisd": (),
    "oprd": (),
    "opd": ("teacher.kind=external", "teacher.model=embedded"),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective(on: On, tmp_path: Path, objective: str) -> None:
    assert_same(on, tmp_path, f"objective={objective}", *OBJECTIVES[objective])


WAYS = {
    "a fixed teacher": ("teacher.kind=fixed",),
    "an online teacher": ("teacher.kind=online",),
    "all weights": ("tuning=full",),
    "bfloat16": ("dtype=bfloat16",),
    "all weights, products in bfloat16": ("tuning=full", "dtype=bfloat16"),
    "gradient checkpointing": ("gradient_checkpointing=true",),
    "a base": ("base_kl=0.1",),
    "eager attention": ("attention=eager",),
    "the largest entries of the teacher": ("divergence.top_k=8",),
    "rollouts drawn ahead": ("rollout.ahead=1",),
    "an evaluation in the run": ("evaluation.every=1", "evaluation.limit=2", "evaluation.n=1"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_way_to_train(on: On, tmp_path: Path, way: str) -> None:
    assert_same(on, tmp_path, *WAYS[way])


def test_offloaded_activations_change_no_number(on: On, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phfcli.core.models.device._SMALLEST", 1 << 10)
    here = trained(on, "sim", tmp_path / "here")
    away = trained(on, "sim", tmp_path / "away", "offload.activations=true")
    assert same_tensors(*(run / STEP / "adapter_model.safetensors" for run in (here, away)))


def test_a_resumed_run_is_the_same_to_the_bit(on: On, tmp_path: Path) -> None:
    whole = trained(on, "sim", tmp_path / "whole", "checkpoint_every=1")
    trained(on, "sim", tmp_path / "resumed", "checkpoint_every=1", steps=1)
    on("", "train", "--steps", 2, "--quiet", "--output-dir", tmp_path / "resumed", "--resume")
    assert same_tensors(*(run / STEP / "adapter_model.safetensors" for run in (whole, tmp_path / "resumed")))
