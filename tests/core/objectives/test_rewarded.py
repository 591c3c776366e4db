"""A distillation blended with the task's reward."""

import pytest
import torch
from rollout_samples import BASE, CPU, SAMPLES

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import collate, run_pass
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import Objective
from phfcli.core.settings import resolve_train, set_sources


def built(**settings: object) -> Objective:
    return build_objective(TrainConfig.model_validate({**BASE, "grpo": {"group_size": 4}, **settings}))


@pytest.mark.parametrize("objective", ["opsd", "phf"])
def test_the_blend_is_the_sum_of_both_losses_and_gradients(objective: str, student: LanguageModel) -> None:
    alone, policy = built(objective=objective), built(objective="grpo")
    blend = built(objective=objective, reward_weight=0.3)
    batch = collate(SAMPLES, blend.needs.positions, student.description.pad_id, CPU)
    layers = blend.needs.blocks(len(student.blocks))
    assert batch.teacher is not None
    with torch.no_grad():
        taught = run_pass(student, batch.teacher, batch, layers)
    found = []
    for one in (alone, policy, blend):
        own = run_pass(student, batch.student, batch, layers)
        loss = one.loss(own, taught if one is not policy else None, batch).total(batch.counts)
        gradients = torch.autograd.grad(loss, list(student.trainable().values()))
        found.append((loss, torch.cat([gradient.flatten() for gradient in gradients])))
    for first, second, both in zip(*found, strict=True):
        torch.testing.assert_close(both, first + 0.3 * second, rtol=1e-4, atol=1e-7)


def test_it_needs_both_a_teacher_and_a_reward_for_each_of_the_group() -> None:
    needs = built(objective="phf", reward_weight=1.0).needs
    assert (needs.teacher, needs.privileged, needs.reward, needs.group_size) == (True, True, True, 4)
    assert needs.layers == built(objective="phf").needs.layers


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (["objective=grpo"], "grpo is no distillation"),
        (["objective=opsd", "rollout.per_problem=2"], "a problem has grpo.group_size completions"),
        (["objective=opsd", "rollout.references=0.5"], "estimates from tokens that the student drew"),
    ],
)
def test_blends_that_cannot_be_had_are_refused(pairs: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        build_objective(resolve_train(set_sources([*pairs, "reward_weight=1"])))


def test_rollouts_have_to_be_of_the_whole_distribution() -> None:
    with pytest.raises(UserError, match=r"rollout.top_p: 0.95 cuts the distribution"):
        build_objective(resolve_train(set_sources(["objective=opsd", "reward_weight=1", "model=some/model"])))
