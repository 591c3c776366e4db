"""Objectives: their terms are sums, so the loss and its gradient do not depend on how a batch is cut."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from rollout_samples import BASE, CPU, SAMPLES, all_logprobs
from torch import Tensor

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.losses.divergence import divergence
from phfcli.core.losses.flow import flow_terms
from phfcli.core.models.architecture import pick_layers
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Sample, collate, run_pass
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.teachers import AveragedTeacher
from phfcli.core.shipped_files import objectives

LAYERS = (1, 2, 3)


@pytest.fixture
def teacher(student: LanguageModel) -> AveragedTeacher:
    """An average that is not the student's present weights."""
    teacher = AveragedTeacher(student.trainable(), 0.5)
    torch.manual_seed(3)
    teacher.load_state_dict({name: p + 0.05 * torch.randn_like(p) for name, p in student.trainable().items()})
    return teacher


def loss_and_gradient(
    student: LanguageModel, teacher: AveragedTeacher, config: TrainConfig, parts: Sequence[Sequence[Sample]]
) -> tuple[float, list[Tensor]]:
    objective = build_objective(config)
    needs = objective.needs
    batches = [collate(part, needs.positions, student.description.pad_id, CPU, needs.where) for part in parts]
    counts = {name: sum(batch.counts[name] for batch in batches) for name in batches[0].counts}
    total = 0.0
    layers = needs.blocks(len(LAYERS))
    for batch in batches:
        privileged = None
        if needs.teacher:
            assert batch.teacher is not None
            with torch.no_grad(), teacher.weights():
                privileged = run_pass(student, batch.teacher, batch, layers)
        passed = run_pass(student, batch.student, batch, layers, objective.needs.lens)
        terms = objective.loss(passed, privileged, batch)
        loss = terms.total(counts)
        loss.backward()
        total += loss.item()
    gradient = [p.grad.clone() for p in student.trainable().values() if p.grad is not None]
    student.network.zero_grad()
    return total, gradient


@pytest.mark.parametrize("name", objectives())
def test_batch_8_equals_8_times_batch_1(name: str, student: LanguageModel, teacher: AveragedTeacher) -> None:
    config = TrainConfig.model_validate({"objective": name, **BASE})
    whole, gradient = loss_and_gradient(student, teacher, config, [SAMPLES])
    for parts in ([[s] for s in SAMPLES], [SAMPLES[:3], SAMPLES[3:]], [list(reversed(SAMPLES))]):
        cut, cut_gradient = loss_and_gradient(student, teacher, config, parts)
        assert cut == pytest.approx(whole, rel=1e-6)
        for a, b in zip(gradient, cut_gradient, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "options",
    [{"clip": 0.05}, {"kind": "reverse_kl", "top_k": 5}, {"kind": "forward_kl"}, {"kind": "forward_kl", "clip": 0.05}],
)
def test_opsd_is_the_mean_divergence_over_tokens(
    student: LanguageModel, teacher: AveragedTeacher, options: dict[str, Any]
) -> None:
    config = TrainConfig.model_validate({"objective": "opsd", "divergence": options})
    loss, _ = loss_and_gradient(student, teacher, config, [SAMPLES])
    values = []
    for one in SAMPLES:
        with torch.no_grad():
            own = student.causal(input_ids=torch.tensor([[*one.student_prompt, *one.completion]])).logits[0]
            with teacher.weights():
                reader = one.teacher_prompt or []
                other = student.causal(input_ids=torch.tensor([[*reader, *one.completion]])).logits[0]
        pair = own[len(one.student_prompt) - 1 : -1], other[len(reader) - 1 : -1]
        values.append(divergence(*pair, **{"kind": "jsd", "temperature": 1.1, **options}))
    assert loss == pytest.approx(torch.cat(values).mean().item(), rel=1e-6)


def test_opsd_as_a_mean_of_each_rollout_first(student: LanguageModel, teacher: AveragedTeacher) -> None:
    def mean(parts: Sequence[Sequence[Sample]], aggregate: str) -> tuple[float, list[Tensor]]:
        config = TrainConfig.model_validate({"objective": "opsd", "divergence": {"aggregate": aggregate}})
        return loss_and_gradient(student, teacher, config, parts)

    loss, gradient = mean([SAMPLES[:3], SAMPLES[3:]], "sequence")
    alone = [mean([[sample]], "token") for sample in SAMPLES]
    assert loss == pytest.approx(sum(value for value, _ in alone) / len(SAMPLES), rel=1e-6)
    for got, *each in zip(gradient, *(grads for _, grads in alone), strict=True):
        torch.testing.assert_close(got, torch.stack(each).mean(0), rtol=1e-5, atol=1e-9)
    assert loss != pytest.approx(mean([SAMPLES], "token")[0])


def test_phf_is_opsd_plus_alpha_times_flow(student: LanguageModel, teacher: AveragedTeacher) -> None:
    def loss(objective: str, alpha: float) -> float:
        config = TrainConfig.model_validate({"objective": objective, "flow": {"alpha": alpha}})
        return loss_and_gradient(student, teacher, config, [SAMPLES])[0]

    opsd = loss("opsd", 0.0)
    assert loss("phf", 0.0) == pytest.approx(opsd)
    flow = loss("phf", 1.0) - opsd
    assert flow > 0
    assert loss("phf", 0.05) == pytest.approx(opsd + 0.05 * flow)
    parts = loss("direction", 1.0) - opsd, loss("geometry", 1.0) - opsd
    assert loss("phf-local", 1.0) - opsd == pytest.approx(sum(parts) / 2)
    without_gram = flow - parts[1] / 4  # half of L_local is half of direction and half of geometry
    assert loss("phf-direction", 1.0) - opsd == pytest.approx(without_gram, rel=1e-5)
    assert loss("phf-geometry", 1.0) - opsd == pytest.approx(flow - parts[0] / 4, rel=1e-5)


@pytest.mark.parametrize(("layers", "pairs"), [([1], [0]), ([1, 3], [0]), ([2], [1]), ([3], []), (["40%"], [0])])
def test_a_selection_is_related_to_the_very_next_blocks(
    student: LanguageModel, teacher: AveragedTeacher, layers: list[Any], pairs: list[int]
) -> None:
    flow = {"layers": layers, "adjacent": "next", "alpha": 1.0}
    config = TrainConfig.model_validate({"objective": "phf", "flow": flow})
    loss, gradient = loss_and_gradient(student, teacher, config, [SAMPLES[:3], SAMPLES[3:]])
    opsd, opsd_gradient = loss_and_gradient(student, teacher, TrainConfig(objective="opsd"), [SAMPLES])
    batch = collate(SAMPLES, 128, student.description.pad_id, CPU)
    own = run_pass(student, batch.student, batch, LAYERS).states
    other = teacher.run_pass(student, batch, LAYERS).states
    terms = flow_terms(own, other, batch.valid)
    chosen = [block - 1 for block in pick_layers(tuple(layers), len(LAYERS))]
    local = (terms.direction[chosen] + terms.geometry[chosen]).mean() / 2
    want = local / 2 + (terms.adjacent[pairs].mean() / 2 if pairs else 0)
    assert loss - opsd == pytest.approx(want.item(), rel=1e-5)
    want.backward()
    for got, before, p in zip(gradient, opsd_gradient, student.trainable().values(), strict=True):
        torch.testing.assert_close(got - before, p.grad, rtol=1e-4, atol=1e-7)


def test_pointwise_is_opsd_plus_oprd_at_the_flows_positions(student: LanguageModel, teacher: AveragedTeacher) -> None:
    def loss(tree: dict[str, Any]) -> float:
        return loss_and_gradient(student, teacher, TrainConfig.model_validate({**BASE, **tree}), [SAMPLES])[0]

    oprd = {
        "normalized": True,
        "layers": [1, 2],
        "positions": "spread-5",
        "aggregate": "sequence",
    }  # of the last block they take other states
    alone = loss({"objective": "oprd", "oprd": oprd})
    both = loss({"objective": "pointwise", "flow": {"alpha": 0.5, "positions": 5, "layers": [1, 2]}})
    assert both - loss({"objective": "opsd"}) == pytest.approx(0.5 * alone)
    added = loss({"objective": "oprd", "oprd": oprd | {"mu": 3}})
    assert added == pytest.approx(loss({"objective": "opd"}) + 3 * alone)


@pytest.mark.parametrize(
    ("positions", "layers"),
    [("all", None), ("last", "all"), ("first-2", "even"), ("last-3", "odd"), ("spread-2", [2, 3]), ("all", "all")],
)
def test_oprd_is_the_mean_squared_difference_of_states(
    student: LanguageModel, teacher: AveragedTeacher, positions: str, layers: Any
) -> None:
    aggregate = "sequence" if layers == "odd" else "token"
    oprd = {"positions": positions, "layers": layers, "aggregate": aggregate}
    config = TrainConfig.model_validate({"objective": "oprd", "oprd": oprd})
    loss, gradient = loss_and_gradient(student, teacher, config, [SAMPLES[:3], SAMPLES[3:]])
    blocks = {None: [3], "all": [1, 2, 3], "even": [2], "odd": [1, 3]}.get(layers if layers != [2, 3] else "", [2, 3])
    means = []
    for one in SAMPLES:
        n = len(one.completion)
        chosen = {
            "all": range(n),
            "last": range(n)[-1:],
            "first-2": range(n)[:2],
            "last-3": range(n)[-3:],
            "spread-2": sorted({0, n - 1}),
        }[positions]
        own = states_of(student, [*one.student_prompt], one)
        with torch.no_grad(), teacher.weights():
            other = states_of(student, [*(one.teacher_prompt or ())], one)
        means.append((own - other)[[block - 1 for block in blocks]][:, list(chosen)].square().mean((0, 2)))
    want = torch.cat(means).mean() if aggregate == "token" else torch.stack([own.mean() for own in means]).mean()
    want.backward()
    assert loss == pytest.approx(want.item(), rel=1e-6)
    plain = [p.grad for p in student.trainable().values() if p.grad is not None]
    for got, grad in zip(*([g for g in grads if g.any()] for grads in (gradient, plain)), strict=True):
        torch.testing.assert_close(got, grad, rtol=1e-5, atol=1e-9)


def states_of(model: LanguageModel, prompt: list[int], sample: Sample) -> Tensor:
    """Each block's output at the completion's tokens, the last one's after the final norm, [L, n, d]."""
    kept: list[Tensor] = []
    handles = [block.register_forward_hook(lambda _m, _a, out: kept.append(out[0])) for block in model.blocks]
    model.backbone(input_ids=torch.tensor([[*prompt, *sample.completion]]))
    for handle in handles:
        handle.remove()
    kept[-1] = model.backbone.norm(kept[-1])
    return torch.stack(kept)[:, len(prompt) :]


def test_the_online_teacher_on_the_students_own_prompt_gives_no_loss(student: LanguageModel) -> None:
    same = [Sample(s.student_prompt, s.student_prompt, s.completion) for s in SAMPLES]
    online = AveragedTeacher(student.trainable(), 0.0)
    loss, gradient = loss_and_gradient(student, online, TrainConfig(objective="phf"), [same])
    assert loss == pytest.approx(0, abs=1e-6)
    assert max(g.abs().max().item() for g in gradient) < 1e-5


def test_chosen_layers_are_those_of_the_all_layer_pass(student: LanguageModel) -> None:
    config = TrainConfig.model_validate({"objective": "phf", "flow": {"layers": [1, 3]}})
    objective = build_objective(config)
    assert objective.needs.layers == (1, 3)
    batch = collate(SAMPLES, 128, student.description.pad_id, CPU)
    some = run_pass(student, batch.student, batch, (1, 3)).states
    every = run_pass(student, batch.student, batch, LAYERS).states
    torch.testing.assert_close(some, every[[0, 2]])


@pytest.mark.parametrize("name", objectives())
def test_samples_without_a_transition_add_nothing_to_the_flow(
    name: str, student: LanguageModel, teacher: AveragedTeacher
) -> None:
    one = Sample([3], [4, 5], [6], logprobs=[-5.0], reward=1.0, group=[1.0, 0.0])
    none = Sample([3], [4], [], group=[1.0, 0.0])
    config = TrainConfig.model_validate({"objective": name, **BASE})
    loss, gradient = loss_and_gradient(student, teacher, config, [[one, none]])
    assert torch.isfinite(torch.tensor(loss))
    assert all(g.isfinite().all() for g in gradient)


def test_sft_is_the_mean_cross_entropy_of_the_completion(student: LanguageModel, teacher: AveragedTeacher) -> None:
    loss, _ = loss_and_gradient(student, teacher, TrainConfig(objective="sft"), [SAMPLES[:5], SAMPLES[5:]])
    want = -torch.cat([all_logprobs(student, sample, temperature=1.0) for sample in SAMPLES]).mean()
    assert loss == pytest.approx(want.item(), rel=1e-6)


def grpo(**settings: object) -> TrainConfig:
    rollout = {"top_p": 1.0, "top_k": 0, "temperature": 1.2}
    return TrainConfig.model_validate({"objective": "grpo", "rollout": rollout, "grpo": settings})


@pytest.mark.parametrize("aggregate", ["token", "sequence"])
@pytest.mark.parametrize("normalize", [True, False])
def test_grpo_is_the_weighted_policy_gradient(
    student: LanguageModel, teacher: AveragedTeacher, aggregate: str, normalize: bool
) -> None:
    config = grpo(aggregate=aggregate, normalize=normalize, ratio_cap=1.1)
    loss, gradient = loss_and_gradient(student, teacher, config, [SAMPLES[:3], SAMPLES[3:]])
    sequences, capped = [], 0
    for sample in SAMPLES:
        group = torch.tensor(sample.group, dtype=torch.float64)
        advantage = (sample.reward - group.mean()) / (group.std() if normalize else 1)
        logprobs = all_logprobs(student, sample, temperature=1.2)
        weight = (logprobs.detach() - torch.tensor(sample.logprobs, dtype=torch.float64)).exp()
        capped += int((weight > 1.1).sum())
        sequences.append(-(weight.clamp(max=1.1) * advantage * (logprobs - logprobs.detach()).exp()))
    assert 0 < capped < sum(map(len, sequences))
    want = torch.cat(sequences).mean() if aggregate == "token" else torch.stack([s.mean() for s in sequences]).mean()
    want.backward()
    assert loss == pytest.approx(want.item(), rel=1e-6)
    for got, p in zip(gradient, student.trainable().values(), strict=True):
        torch.testing.assert_close(got, p.grad, rtol=1e-5, atol=1e-9)


def test_opsa_pushes_the_least_likely_fifth_of_each_completion_down(
    student: LanguageModel, teacher: AveragedTeacher
) -> None:
    config = TrainConfig.model_validate({"objective": "opsa", **BASE})
    loss, gradient = loss_and_gradient(student, teacher, config, [SAMPLES[:3], SAMPLES[3:]])
    lowest, tokens = [], 0
    for sample in SAMPLES:
        logprobs = all_logprobs(student, sample, temperature=config.rollout.temperature)
        tokens += len(logprobs)
        lowest += [*logprobs.sort().values[: len(logprobs) // 5]]
    assert 0 < len(lowest) <= tokens / 5
    want = 0.5 * torch.stack(lowest).sum() / (tokens / 5)  # an advantage of -0.5: minus its log-probability falls
    want.backward()
    assert loss == pytest.approx(want.item(), rel=1e-6)
    for got, p in zip(gradient, student.trainable().values(), strict=True):
        torch.testing.assert_close(got, p.grad, rtol=1e-5, atol=1e-9)


def test_groups_without_spread_give_no_loss_and_are_counted(student: LanguageModel, teacher: AveragedTeacher) -> None:
    flat = [replace(s, reward=1.0, group=[1.0] * 4) for s in SAMPLES[:4]]
    loss, gradient = loss_and_gradient(student, teacher, grpo(), [flat])
    assert loss == 0
    assert not any(g.any() for g in gradient)
    objective = build_objective(grpo())
    batch = collate([*flat, *SAMPLES[4:]], 128, student.description.pad_id, CPU)
    metrics = objective.loss(run_pass(student, batch.student, batch, ()), None, batch).metrics
    total, count = metrics["flat_groups"]
    assert (total.item(), count.item()) == (4, 8)


@pytest.mark.parametrize(("name", "value"), [("top_p", 0.95), ("top_k", 20)])
@pytest.mark.parametrize("objective", ["grpo", "opd"])
def test_rollouts_of_a_cut_distribution_are_refused(objective: str, name: str, value: float) -> None:
    config = TrainConfig.model_validate({"objective": objective, "rollout": {**BASE["rollout"], name: value}})
    with pytest.raises(UserError, match=f"rollout.{name}: {value} cuts the distribution"):
        build_objective(config)
