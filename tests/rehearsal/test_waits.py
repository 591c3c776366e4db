"""How often a step makes the host wait for the accelerator."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from pretended_accelerator import WAITS

from phfcli.core.training.trainer import Trainer

On = Callable[..., str]
SMALL = ("--quiet", "--set", "batch_size=4", "--set", "micro_batch_size=2", "--set", "rollout.max_new_tokens=12")
A_STEP, A_MICRO_BATCH = 6, 2


@pytest.mark.parametrize("objective", ["phf", "opsd", "grpo", "sft"])
def test_an_update_waits_a_few_times(on: On, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str) -> None:
    """The rollouts, which transformers draws token by token, are left out."""
    counted: list[Counter[str]] = []
    micro_batches: list[int] = []
    collate, update = Trainer.collate, Trainer.weight_norm

    def begin(trainer: Trainer, *args: object) -> object:
        WAITS.clear()
        batches = collate(trainer, *args)  # type: ignore[arg-type]
        micro_batches.append(len(batches))
        return batches

    def end(trainer: Trainer) -> float:
        norm = update(trainer)
        counted.append(WAITS.copy())
        return norm

    monkeypatch.setattr(Trainer, "collate", begin)
    monkeypatch.setattr(Trainer, "weight_norm", end)
    on("sim", "train", "--steps", 2, *SMALL, "--objective", objective, "--output-dir", tmp_path / "run")
    waits, parts = counted[-1], micro_batches[-1]
    assert parts >= 2
    assert waits.total() <= A_STEP + A_MICRO_BATCH * parts, waits
