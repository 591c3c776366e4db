"""What a token counts that another policy has drawn, against values by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from rollout_samples import BASE, CPU, SAMPLES, all_logprobs

from phfcli.core.config import TrainConfig
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Sample, collate, run_pass
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import importance_weights


def test_a_weight_is_the_ratio_to_what_it_was_drawn_from_up_to_the_cap() -> None:
    sample = Sample([3], None, [6, 7, 8], logprobs=[math.log(0.5), math.log(0.2), math.log(0.1)])
    batch = collate([sample], 2, 0, CPU)
    logprobs = torch.tensor([0.25, 0.3, 0.9], dtype=torch.float64).log().requires_grad_()
    weights = importance_weights(batch, logprobs, cap=2.0)
    assert weights.tolist() == pytest.approx([0.5, 1.5, 2.0])
    assert not weights.requires_grad


@pytest.mark.parametrize(("ahead", "weights"), [(0, (1.0, 1.0)), (1, (0.5, 2.0))])
def test_opd_weighs_what_was_drawn_ahead(student: LanguageModel, ahead: int, weights: tuple[float, float]) -> None:
    tree: dict[str, Any] = {"objective": "opd", "rollout": {**BASE["rollout"], "ahead": ahead}}
    config = TrainConfig.model_validate(tree)
    objective = build_objective(config)
    temperature = config.rollout.temperature
    plain = replace(SAMPLES[0], completion=[5, 6])
    own = all_logprobs(student, plain, temperature)
    # the older policy had the first token at twice the present probability, and the second at a quarter
    drawn = [own[0].item() + math.log(2), own[1].item() - math.log(4)]
    batch = collate([replace(plain, logprobs=drawn)], 2, student.description.pad_id, CPU)
    assert batch.teacher is not None
    passes = [run_pass(student, side, batch, ()) for side in (batch.student, batch.teacher)]
    value = objective.loss(passes[0], passes[1], batch).total({"tokens": 2}).item()
    teacher = all_logprobs(student, replace(plain, student_prompt=plain.teacher_prompt), temperature)
    gaps = (own - teacher).tolist()
    assert value == pytest.approx((weights[0] * gaps[0] + weights[1] * gaps[1]) / 2, rel=1e-4)
