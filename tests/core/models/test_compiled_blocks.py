"""Compiled blocks: the same gradient, whatever the lengths of a batch, and no new compilation for new ones."""

import shutil
from pathlib import Path

import pytest
import torch
from families import family, write
from torch._dynamo.utils import counters

from phfcli.core.errors import UserError
from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.training.setup import build_trainer
from phfcli.core.training.trainer import Trainer

SMALL = ("data=embedded", "device=cpu", "batch_size=2", "micro_batch_size=2", "rollout.max_new_tokens=12", "lora.r=4")


def trainer(model: Path, run: Path, *pairs: str) -> Trainer:
    return build_trainer(resolve_train(set_sources([f"model={model}", *SMALL, *pairs])), run, fresh=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch warns of what its own tracing does
def test_they_give_the_same_gradient_and_are_compiled_once(tmp_path: Path) -> None:
    model = write(family("qwen3"), tmp_path / "model", num_hidden_layers=2)
    plain = trainer(model, tmp_path / "plain", "objective=sft")
    compiled = trainer(model, tmp_path / "compiled", "objective=sft", "compile=true")
    graphs = []
    for step in (1, 2, 3):
        problems = plain.problems(step)
        samples = plain.make_samples(problems, plain.rollout(problems, step), plain.shown(problems, step))
        ends = []
        for one in (plain, compiled):
            batches = one.collate(samples)
            loss, norm, _ = one.gradient(batches, batches[0].counts, one.ranks)
            ends.append((loss, norm, [p.grad for p in one.model.trainable().values()]))
        assert ends[1][:2] == pytest.approx(ends[0][:2], rel=1e-5)
        for own, other in zip(ends[0][2], ends[1][2], strict=True):
            assert own is not None
            torch.testing.assert_close(other, own, rtol=1e-3, atol=1e-6)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs[2] == graphs[1]


def test_without_a_compiler_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(UserError, match="compile: on a CPU it takes a C"):
        trainer(Path("embedded"), tmp_path, "compile=true")


def test_an_objective_that_reads_attention_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="compile: oisd reads attention"):
        trainer(Path("embedded"), tmp_path, "compile=true", "objective=oisd")
