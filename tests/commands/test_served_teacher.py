"""Training with a teacher on a server, as a user types it: it learns what it learns from the same model here."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refused
from safetensors.torch import load_file
from states_server import StatesServer
from trained import SMALL, metrics

from phfcli.core.config import ModelSettings
from phfcli.core.models.loading import load_model

Phf = Callable[..., Any]

STEPS = ("--steps", 2, *SMALL)


@pytest.fixture
def server(stranger: Path) -> Iterator[StatesServer]:
    server = StatesServer(load_model(ModelSettings(model=str(stranger), device="cpu")), str(stranger))
    yield server
    server.stop()


def external(model: object, url: str | None = None) -> tuple[str, ...]:
    served = () if url is None else ("--set", f"teacher.server={url}")
    return ("--teacher", "external", "--set", f"teacher.model={model}", *served)


def test_oprd_through_a_bridge_is_what_it_is_with_the_model_here(
    phf: Phf, tmp_path: Path, stranger: Path, server: StatesServer
) -> None:
    fit = ("bridge", "fit", "--rollouts", 10, "--set", "rollout.max_new_tokens=48", "--quiet", "--teacher", stranger)
    assert phf(*fit, "-o", "b.safetensors").code == 0
    served = (*fit, "--set", f"teacher.server={server.url}")
    assert phf(*served, "-o", "served.safetensors").code == 0
    bridges = [load_file(tmp_path / name)["teacher.mean"] for name in ("b.safetensors", "served.safetensors")]
    torch.testing.assert_close(*bridges, rtol=1e-4, atol=1e-5)
    refused(phf(*served, "-o", "c.safetensors", "--set", "oprd.layers=[2]"), "teacher.server", "on its last layer")
    options = ("train", "--objective", "oprd", "--set", "oprd.bridge=b.safetensors", *STEPS)
    for name, url in (("here", None), ("there", server.url)):
        assert phf(*options, *external(stranger, url), "--output-dir", tmp_path / name).code == 0
    here, there = metrics(tmp_path / "here"), metrics(tmp_path / "there")
    for one, other in zip(here, there, strict=True):
        assert one.keys() == other.keys()
        assert other["pointwise"] == pytest.approx(one["pointwise"], rel=1e-4)
    weights = [load_file(tmp_path / n / "checkpoints/step-000002/adapter_model.safetensors") for n in ("here", "there")]
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("objective", ["phf", "phf-local", "pointwise"])
@pytest.mark.parametrize("also", [(), ("--dry-run",)])
def test_what_compares_states_of_blocks_is_refused(phf: Phf, tmp_path: Path, objective: str, also: tuple[str]) -> None:
    nobody = "http://127.0.0.1:9"  # it is refused before any server is asked
    done = phf("train", "--objective", objective, *external("embedded", nobody), *STEPS, *also)
    refused(done, f"teacher.server: a server gives the states behind the final norm alone, and {objective} compares")
    assert not (tmp_path / "runs").exists()


def test_oprd_on_other_layers_is_refused(phf: Phf) -> None:
    options = ("--objective", "oprd", "--set", "oprd.layers=[2, 4]", *external("embedded", "http://127.0.0.1:1"))
    refused(phf("train", *options, *STEPS, "--dry-run"), "teacher.server", "oprd", "on its last layer")


def test_a_server_is_for_an_external_teacher(phf: Phf) -> None:
    done = phf("train", "--set", "teacher.server=http://127.0.0.1:1", *STEPS)
    refused(done, "teacher.server computes an external teacher: set teacher.kind=external and teacher.model")


def test_a_server_that_is_not_there_is_one_line(phf: Phf, tmp_path: Path) -> None:
    done = phf("train", "--objective", "oprd", *external("embedded", "http://127.0.0.1:1"), *STEPS)
    refused(done, "teacher.server http://127.0.0.1:1: no vLLM server answers there")
    assert not (tmp_path / "runs").exists()
