"""What is looked at and told before step 1, for a model as users bring them."""

import json
from pathlib import Path

import pytest
import torch
from families import family, write
from safetensors.torch import load_file, save_file

from phfcli.core.errors import UserError
from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.training.setup import build_trainer
from phfcli.core.training.trainer import Trainer

SMALL = ("data=embedded", "device=cpu", "batch_size=2", "rollout.max_new_tokens=8", "lora.r=2")


def build(model: Path, run: Path, *pairs: str) -> Trainer:
    return build_trainer(resolve_train(set_sources([f"model={model}", *SMALL, *pairs])), run, fresh=True)


def test_what_is_adapted_is_told_and_kept(tmp_path: Path) -> None:
    trainer = build(write(family("qwen3_moe"), tmp_path / "model"), tmp_path / "run")
    assert trainer.notes[0] == "adapter on 16 modules: 4 x q_proj, 4 x k_proj, 4 x v_proj, 4 x o_proj"
    assert any(note.startswith("not adapted: mlp.experts:") for note in trainer.notes)
    assert any(note == "both readers start before any thinking" for note in trainer.notes)
    adapter = json.loads((tmp_path / "run" / "manifest.json").read_text())["adapter"]
    assert adapter["count"] == 16
    assert adapter["modules"] == {"q_proj": 4, "k_proj": 4, "v_proj": 4, "o_proj": 4}
    assert adapter["parameters"] == sum(p.numel() for p in trainer.model.trainable().values())


@pytest.mark.parametrize(
    ("kind", "pairs", "message"),
    [
        ("phi3", ["lora.target_modules=[q_proj, o_proj]"], r"lora\.target_modules: the model has no 'q_proj'"),
        ("qwen3", ["lora.target_modules=[lm_head]"], "lm_head lies outside of the decoder blocks"),
    ],
)
def test_a_planted_list_is_found_and_nothing_written(tmp_path: Path, kind: str, pairs: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(write(family(kind), tmp_path / "model"), tmp_path / "run", *pairs)
    assert not (tmp_path / "run").exists()


def test_a_planted_nan_in_a_teacher_is_found(tmp_path: Path) -> None:
    model, teacher = (write(family("qwen3"), tmp_path / name) for name in ("model", "teacher"))
    tensors = load_file(teacher / "model.safetensors")
    tensors["model.layers.3.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(tensors, teacher / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"teacher: model\.layers\.3\.mlp\.down_proj\.weight holds numbers"):
        build(model, tmp_path / "run", "objective=opsd", "teacher.kind=external", f"teacher.model={teacher}")


def test_student_and_teacher_may_have_other_heads(tmp_path: Path) -> None:
    """Gemma 2 caps its logits, Phi adds a bias."""
    model, teacher = write(family("gemma2"), tmp_path / "model"), write(family("phi"), tmp_path / "teacher")
    trainer = build(
        model, tmp_path / "run", "objective=opsd", "teacher.kind=external", f"teacher.model={teacher}", "steps=1"
    )
    metrics, _ = trainer.train_step(1)
    assert 0 < metrics["divergence"] < 1
    assert metrics["grad_norm"] > 0


@pytest.mark.slow
def test_offloading_on_a_cpu_says_that_it_changes_nothing(tmp_path: Path) -> None:
    told = build_trainer(resolve_train(set_sources(("device=cpu", "offload.activations=true"))), tmp_path, fresh=True)
    assert [line for line in told.warnings if line.startswith("offload")] == [
        "offload.activations: there is no GPU here whose memory it could spare, so it changes nothing"
    ]
