"""Steps on a GPU against the CPU, in bfloat16, with vLLM beside them, and on two GPUs over NCCL."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from trained import metrics, same_tensors

from phfcli.core.config import TrainConfig
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import add_lora
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.vllm import VllmEngine
from phfcli.core.types import Request, Sampling

pytestmark = pytest.mark.gpu

Phf = Callable[..., Any]

# greedy: kernels that round differently then draw the same tokens
STEPS = ("train", "--steps", 2, "--quiet", "--engine", "transformers", "--set", "batch_size=8")
STEPS += ("--set", "rollout.max_new_tokens=48", "--set", "rollout.top_k=1")
COMPARED = ("loss", "divergence", "flow", "grad_norm", "rollout_tokens")
ADAPTER = "checkpoints/step-000002/adapter_model.safetensors"
WHOLE = Path("checkpoints/step-000002/model.safetensors")


def trained(phf: Phf, folder: Path, *settings: str) -> list[dict[str, Any]]:
    sets = [word for setting in settings for word in ("--set", setting)]
    done = phf(*STEPS, *sets, "--output-dir", folder)
    assert done.code == 0, done.err
    return metrics(folder)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.02), ("bfloat16", 0.3)])
def test_a_step_is_that_of_the_cpu(phf: Phf, tmp_path: Path, dtype: str, error: float) -> None:
    own = trained(phf, tmp_path / "gpu", "device=cuda", f"dtype={dtype}")[0]
    wanted = trained(phf, tmp_path / "cpu", "device=cpu", "dtype=float32")[0]
    for name in COMPARED:
        assert own[name] == pytest.approx(wanted[name], rel=error), name


def test_a_run_is_the_same_twice(phf: Phf, tmp_path: Path) -> None:
    for name in ("a", "b"):
        trained(phf, tmp_path / name, "device=cuda", "dtype=float32")
    assert same_tensors(tmp_path / "a" / ADAPTER, tmp_path / "b" / ADAPTER)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_offloading_changes_no_number(phf: Phf, tmp_path: Path, tuning: str) -> None:
    settings = ("device=cuda", "dtype=float32", f"tuning={tuning}", "micro_batch_size=8")
    trained(phf, tmp_path / "here", *settings)
    trained(phf, tmp_path / "away", *settings, "offload.activations=true")
    files = (ADAPTER,) if tuning == "lora" else (WHOLE, WHOLE.with_name("state") / "teacher.safetensors")
    assert all(same_tensors(tmp_path / "here" / file, tmp_path / "away" / file) for file in files)


@pytest.mark.gpu(2)
def test_all_weights_over_two_ranks_are_one(phf: Phf, tmp_path: Path) -> None:
    wanted = trained(phf, tmp_path / "one", "device=cuda", "dtype=float32", "tuning=full")
    spread = ("--set", "tuning=full", "--set", "sharding=fsdp", "--processes", 2)
    assert phf(*STEPS, "--set", "dtype=float32", *spread, "--output-dir", tmp_path / "two").code == 0
    for own, one in zip(metrics(tmp_path / "two"), wanted, strict=True):
        for name in COMPARED:
            assert own[name] == pytest.approx(one[name], rel=0.02), name


@pytest.mark.gpu(2)
def test_two_ranks_over_nccl_are_one(phf: Phf, tmp_path: Path) -> None:
    wanted = trained(phf, tmp_path / "one", "device=cuda", "dtype=float32")
    assert phf(*STEPS, "--set", "dtype=float32", "--processes", 2, "--output-dir", tmp_path / "two").code == 0
    for own, one in zip(metrics(tmp_path / "two"), wanted, strict=True):
        for name in COMPARED:
            assert own[name] == pytest.approx(one[name], rel=0.02), name


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_gives_its_memory_back_between_rollouts(cuda: torch.device) -> None:
    """It sleeps when the last completion is drawn, and wakes for the next weights."""
    config = TrainConfig(device="cuda", dtype="bfloat16")
    model = add_lora(load_model(config), config.lora, seed=0)
    engine = VllmEngine(Serving(config, 256), rank=config.lora.r, training=True)
    try:
        awake, asleep = [], []
        for _ in range(2):
            engine.update(model)
            awake.append(torch.cuda.mem_get_info(cuda)[0])
            list(engine.sample([Request((1, 2, 3), seed=0)], Sampling(max_new_tokens=8)))
            asleep.append(torch.cuda.mem_get_info(cuda)[0])
    finally:
        engine.close()
    taken = 0.2 * torch.cuda.mem_get_info(cuda)[1]  # of the three tenths that it may have
    assert all(there - here > taken for here, there in zip(awake, asleep, strict=True))
