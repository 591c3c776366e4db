"""phf train with rollouts that a real vLLM server draws a step ahead."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trained import SMALL, metrics, same_tensors
from vllm_server import NEEDS_VLLM, TAKES_ADAPTERS, VllmServer, vllm_server

from phfcli.core.shipped_files import embedded_model

pytestmark = NEEDS_VLLM


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    with vllm_server(embedded_model(), tmp_path_factory.mktemp("server"), TAKES_ADAPTERS) as server:
        yield server


def test_rollouts_are_one_update_old_and_a_resumed_run_trains_on_the_same(
    phf: Callable[..., Any], tmp_path: Path, server: VllmServer
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    engine = ("--set", f"rollout.engine={server.url}", "--set", "rollout.ahead=1", "--set", "optim.lr=0.01")
    assert phf("train", "--steps", 3, "--checkpoint-every", 2, *engine, *SMALL, "--output-dir", whole).code == 0
    assert [line["staleness"] for line in metrics(whole)] == [0, 1, 1]
    # what an engine's log-probabilities are off is then the update between
    gaps = [line["engine_gap"] for line in metrics(whole)]
    assert gaps[0] < 1e-3 < min(gaps[1:])
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "checkpoints/step-000003")
    assert phf("train", "--output-dir", cut, "--resume", "--quiet").code == 0
    assert [line["staleness"] for line in metrics(cut)] == [0, 1, 1]
    adapter = "checkpoints/step-000003/adapter_model.safetensors"
    assert same_tensors(whole / adapter, cut / adapter)
