"""phf push --dry-run: what would leave this machine, and what its card says. The hub itself is not asked."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from trained import SMALL

from phfcli.core.config import TrainConfig
from phfcli.core.runs.model_card import model_card

Phf = Callable[..., Any]


@pytest.fixture
def run(phf: Phf, tmp_path: Path) -> Path:
    """One step of OPSD."""
    assert phf("train", "--objective", "opsd", "--steps", 1, *SMALL, "--output-dir", "run").code == 0
    return tmp_path / "run"


def test_the_files_are_those_that_others_need(phf: Phf, run: Path) -> None:
    files = phf("push", run, "me/model", "--dry-run", "--json").json["files"]
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "phf-config.yaml"} <= files.keys()
    assert not {"optimizer.safetensors", "teacher.safetensors", "trainer.json"} & files.keys()
    assert "would go to me/model" in phf("push", run, "me/model", "--dry-run").out


def test_each_checkpoint_has_a_card(run: Path) -> None:
    card = (run / "checkpoints" / "step-000001" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "peft"
    assert "# embedded, opsd, step 1" in card


def test_mistakes_are_one_line(phf: Phf, run: Path) -> None:
    for words in ((run, "model"), ("embedded", "me/model"), ("nowhere", "me/model")):
        done = phf("push", *words, "--dry-run")
        assert done.code == 2
        assert done.err.count("\n") == 1
    shutil.rmtree(run / "checkpoints")
    assert "no complete checkpoint" in phf("push", run, "me/model", "--dry-run").err


def test_a_card_has_scores_with_intervals_and_names_of_the_hub() -> None:
    config = TrainConfig(model="Qwen/Qwen3-4B", data="openai/gsm8k:main:train")
    card = model_card(config, 100, [{"bench": "aime24", "n": 12, "problems": 30, "average": 0.7, "stderr": 0.05}])
    header = yaml.safe_load(card.split("---")[1])
    assert (header["base_model"], header["datasets"]) == ("Qwen/Qwen3-4B", ["openai/gsm8k"])
    assert "| aime24 | 12 | 30 | 70.0 (60.2 to 79.8) |" in card
