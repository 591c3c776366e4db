"""The flow loss inside TRL's trainer is the loss of our own step on the same tokens."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from phfcli.core.config import LoraSettings, TrainConfig
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.lora import add_lora
from phfcli.core.models.passes import Sample, collate, run_pass
from phfcli.core.objectives.build import build_objective

sys.path.append(str(Path(__file__).parents[2] / "examples"))


def samples_of(inputs: dict[str, Any]) -> list[Sample]:
    """The rollouts of TRL's padded batch, token by token."""
    samples = []
    for row, length in enumerate(inputs["completion_mask"].sum(-1).tolist()):
        width = inputs["completion_ids"].shape[1]
        prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
        taught = inputs["teacher_input_ids"][row, :-width][inputs["teacher_attention_mask"][row, :-width].bool()]
        samples.append(Sample(prompt, taught.tolist(), inputs["completion_ids"][row, :length].tolist()))
    return samples


@pytest.mark.slow
def test_its_loss_is_ours(tmp_path: Path, embedded: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl_phf import PhfTrainer, build_trainer

    seen: list[tuple[dict[str, Any], float]] = []

    class Watched(PhfTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            seen.append((inputs, loss.item()))
            return loss

    monkeypatch.setattr("trl_phf.PhfTrainer", Watched)
    build_trainer(str(tmp_path), max_steps=1, temperature=1.1).train()
    [(inputs, theirs)] = seen

    config = TrainConfig.model_validate(
        {
            "objective": "phf",
            "rollout": {"temperature": 1.1},
            "divergence": {"clip": None, "aggregate": "sequence"},
            "flow": {"alpha": PhfTrainer.alpha},
        }
    )
    objective, model = build_objective(config), add_lora(embedded, LoraSettings(), 0)  # fresh adapters compute nothing
    batch = collate(samples_of(inputs), config.flow.positions, model.description.pad_id, model.device)
    layers = range(1, len(model.blocks) + 1)
    assert batch.teacher is not None
    with torch.no_grad():
        student, teacher = (run_pass(model, reader, batch, layers) for reader in (batch.student, batch.teacher))
        ours = objective.loss(student, teacher, batch).total(batch.counts).item()
    assert theirs == pytest.approx(ours, rel=1e-4)
    assert ours > 1e-3
