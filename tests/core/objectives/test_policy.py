"""Objectives with a reward: OISD's alignments, and a reward beside a distillation."""

from dataclasses import replace

import pytest
import torch
from rollout_samples import BASE, CPU, SAMPLES, all_logprobs
from torch import Tensor

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.losses.pointwise import sampled_keys
from phfcli.core.losses.positions import select_positions
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import collate, run_pass
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import LossTerms, Objective
from phfcli.core.settings import resolve_train, set_sources

QUERIES, WINDOW, STRIDED, BOUND, TEMPERATURE = 3, 4, 2, 0.8, 1.2


@pytest.fixture(autouse=True)
def sampled_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUERIES", "WINDOW", "STRIDED"):
        monkeypatch.setattr(f"phfcli.core.objectives.policy.{name}", globals()[name])


def config(aggregate: str = "token", layer: int = 1) -> TrainConfig:
    oisd = {"layer": layer, "think": 0.3, "attention": 0.7, "advantage_clip": BOUND}
    return TrainConfig.model_validate(
        {
            "objective": "oisd",
            "rollout": {**BASE["rollout"], "temperature": TEMPERATURE},
            "grpo": {"aggregate": aggregate, "ratio_cap": 1e9},
            "oisd": oisd,
        }
    )


def terms_of(student: LanguageModel, settings: TrainConfig) -> tuple[LossTerms, dict[str, int]]:
    objective = build_objective(settings)
    batch = collate(SAMPLES, objective.needs.positions, student.description.pad_id, CPU)
    passed = run_pass(student, batch.student, batch, (), objective.needs.lens)
    return objective.loss(passed, None, batch), batch.counts


def jsd(p: Tensor, q: Tensor) -> Tensor:
    middle = (p + q) / 2
    return (((p * (p / middle).log()) + (q * (q / middle).log())) / 2).sum(-1)


@pytest.mark.parametrize("aggregate", ["token", "sequence"])
@pytest.mark.parametrize("layer", [1, 2])
def test_it_is_grpo_plus_both_alignments(student: LanguageModel, aggregate: str, layer: int) -> None:
    student.causal.set_attn_implementation("eager")
    policy, think, attention = [], [], []
    for sample in SAMPLES:
        ids = torch.tensor([[*sample.student_prompt, *sample.completion]])
        out = student.causal(input_ids=ids, output_hidden_states=True, output_attentions=True)
        start, group = len(sample.student_prompt) - 1, torch.tensor(sample.group, dtype=torch.float64)
        advantage = (sample.reward - group.mean()) / group.std()
        clipped = advantage.clamp(-BOUND, BOUND)
        logprobs = all_logprobs(student, sample, TEMPERATURE)
        weight = (logprobs.detach() - torch.tensor(sample.logprobs, dtype=torch.float64)).exp()
        policy.append(-weight * advantage * (logprobs - logprobs.detach()).exp())
        lens = student.backbone.norm(out.hidden_states[layer][0, start:-1]) @ student.head.T
        last = out.logits[0, start:-1].detach()
        think.append(clipped * jsd((lens / TEMPERATURE).softmax(-1), (last / TEMPERATURE).softmax(-1)))
        positions, valid = select_positions(torch.tensor([len(sample.completion)]), QUERIES)
        steps = []
        for column in (start + positions[valid]).tolist():
            keys, allowed = sampled_keys(torch.tensor([[column]]), WINDOW, STRIDED)
            chosen = keys[allowed]
            own, final = (out.attentions[i][0, :, column, chosen] for i in (layer - 1, -1))
            final = final.detach()
            steps.append(jsd(own / own.sum(-1, keepdim=True), final / final.sum(-1, keepdim=True)).mean())
        attention.append(clipped * torch.stack(steps).mean())

    def mean(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts).mean() if aggregate == "token" else torch.stack([p.mean() for p in parts]).mean()

    want = mean(policy) + 0.3 * mean(think) + 0.7 * torch.stack(attention).mean()
    want.backward()
    expected = [p.grad.clone() for p in student.trainable().values() if p.grad is not None]
    student.network.zero_grad()
    terms, counts = terms_of(student, config(aggregate, layer))
    loss = terms.total(counts)
    loss.backward()
    assert loss.item() == pytest.approx(want.item(), rel=1e-5)  # the eager softmax is in float32
    for p, gradient in zip(student.trainable().values(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "parts"), [("think", {"q", "k", "v", "o", "gate", "up", "down"}), ("attention", {"q", "k"})]
)
def test_the_gradient_reaches_the_shadow_and_never_the_last_block(
    student: LanguageModel, name: str, parts: set[str]
) -> None:
    terms, _ = terms_of(student, config(layer=1))
    terms.terms[name].total.backward()
    reached = {key for key, p in student.trainable().items() if p.grad is not None and p.grad.any()}
    assert {key.split("layers.")[1][0] for key in reached} == {"0"}  # block 1, not blocks 2 and 3
    assert {key.split("_proj")[0].rpartition(".")[2] for key in reached} == parts


def test_advantages_are_signed_and_clipped(student: LanguageModel) -> None:
    objective = build_objective(config())
    batch = collate(SAMPLES, 3, student.description.pad_id, CPU)
    passed = run_pass(student, batch.student, batch, (), 1)
    flipped = [replace(s, reward=1 - s.reward, group=[1 - r for r in s.group]) for s in SAMPLES]
    better, worse = (
        objective.loss(passed, None, replace(batch, samples=samples)).terms for samples in (SAMPLES, flipped)
    )
    for name in ("think", "attention"):
        assert better[name].total.item() == pytest.approx(-worse[name].total.item())
        assert better[name].total.item() != 0


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
