"""A loss that also holds the policy near its base."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rollout_samples import BASE, CPU, SAMPLES
from torch import Tensor

from phfcli.core.config import TrainConfig
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Pass, Sample, collate, run_pass
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import Objective
from phfcli.core.objectives.teachers import build_base
from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.training.setup import build_trainer
from phfcli.core.training.trainer import Trainer

SMALL = ["batch_size=4", "rollout.max_new_tokens=24", "steps=4", "checkpoint_every=2", "optim.lr=1e-3"]


def built(**settings: object) -> Objective:
    return build_objective(TrainConfig.model_validate({**BASE, "grpo": {"group_size": 4}, **settings}))


def logits(model: LanguageModel, sample: Sample) -> Tensor:
    """Of a sample's completion, [N, V], in float64."""
    ids = torch.tensor([[*sample.student_prompt, *sample.completion]])
    return model.causal(input_ids=ids).logits[0][len(sample.student_prompt) - 1 : -1].double()


@pytest.mark.parametrize("objective", ["opsd", "phf", "grpo", "sft", "opd"])
def test_the_term_is_the_divergence_from_the_model_without_its_adapter(objective: str, student: LanguageModel) -> None:
    alone, near = built(objective=objective), built(objective=objective, base_kl=0.3)
    batch = collate(SAMPLES, near.needs.positions, student.description.pad_id, CPU)
    layers = near.needs.blocks(len(student.blocks))
    base = build_base(student)
    held = replace(batch, base=base.run_pass(student, batch, ()))
    reader = batch.teacher
    assert reader is not None

    def loss(one: Objective) -> Tensor:
        with torch.no_grad():
            taught: Pass | None = run_pass(student, reader, batch, layers)
        own = run_pass(student, batch.student, batch, layers)
        return one.loss(own, taught if one.needs.teacher else None, held).total(batch.counts)

    temperature, divergence = 1.1, torch.zeros((), dtype=torch.float64)
    for sample in SAMPLES:
        own = (logits(student, sample) / temperature).log_softmax(-1)
        with student.network.disable_adapter(), torch.no_grad():  # type: ignore[operator]
            before = (logits(student, sample) / temperature).log_softmax(-1)
        divergence = divergence + (own.exp() * (own - before)).sum()
    expected = loss(alone).double() + 0.3 * divergence / batch.counts["tokens"]
    found = loss(near)
    assert divergence > 1e-4  # the adapter of these tests does something
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-8)
    weights = list(student.trainable().values())
    for one, other in zip(torch.autograd.grad(found, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)


def trainer(folder: Path, *pairs: str, fresh: bool = True) -> Trainer:
    return build_trainer(resolve_train(set_sources([*SMALL, *pairs])), folder, fresh=fresh)


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_base_stays_what_it_was_before_training_when_a_run_goes_on(tmp_path: Path, tuning: str) -> None:
    pairs = [f"tuning={tuning}", "base_kl=1.0", "rollout.max_new_tokens=16"]
    whole = list(trainer(tmp_path / "whole", *pairs).train())
    list(trainer(tmp_path / "parts", *pairs, "steps=2").train())
    rest = trainer(tmp_path / "parts", *pairs, fresh=False)
    rest.resume(lambda _: None)
    after = list(rest.train())
    assert whole[0]["base_kl"] == pytest.approx(0, abs=1e-6)
    assert [step["base_kl"] for step in whole[2:]] == [step["base_kl"] for step in after]
    assert whole[-1]["base_kl"] > 1e-5


@pytest.mark.slow
def test_a_policy_that_is_held_stays_nearer(tmp_path: Path) -> None:
    """On the references, which need no rollouts."""
    pairs = ["objective=sft", "steps=6"]
    free, held = (list(trainer(tmp_path / weight, *pairs, f"base_kl={weight}").train()) for weight in ("1e-9", "1"))
    assert held[-1]["base_kl"] < free[-1]["base_kl"] / 2
