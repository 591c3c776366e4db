"""Distillations whose tokens have weights, or are sampled."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from rollout_samples import BASE, CPU, SAMPLES, all_logprobs
from torch import Tensor

from phfcli.core.config import TrainConfig
from phfcli.core.errors import UserError
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, Pass, Sample, collate, run_pass
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.contract import Objective, gated, importance_weights, loss_terms
from phfcli.core.objectives.distillation import Weighted
from phfcli.core.objectives.teachers import AveragedTeacher
from phfcli.core.settings import resolve_train, set_sources
from phfcli.losses import divergence

KINDS = ("sigmoid", "skip-first-3")


def built(kind: str, objective: str = "phf") -> Objective:
    own = {"objective": objective, "weights": kind, "divergence": {"clip": None}}
    return build_objective(TrainConfig.model_validate({**BASE, **own, "flow": {"positions": 6}}))


def passes(
    model: LanguageModel, objective: Objective, samples: Sequence[Sample], gate: float | None = None
) -> tuple[Pass, Pass, Batch]:
    batch = gated(collate(samples, objective.needs.positions, model.description.pad_id, CPU), model, gate, 1.1)
    layers = objective.needs.blocks(len(model.blocks))
    assert batch.teacher is not None
    return run_pass(model, batch.student, batch, layers), run_pass(model, batch.teacher, batch, layers), batch


def plain_weights(kind: str, tokens: int) -> list[float]:
    """Of one completion."""
    if kind == "sigmoid":
        places = [(t + 0.5) / tokens for t in range(tokens)]
        return [0.25 + 0.75 / (1 + math.exp(-(f - 0.3) / 0.1)) for f in places]
    raw = [float(t >= 3) for t in range(tokens)]
    return [weight * tokens / sum(raw) if any(raw) else 0.0 for weight in raw]


@pytest.mark.parametrize("kind", KINDS)
def test_the_divergence_is_the_weighted_mean(kind: str, student: LanguageModel) -> None:
    objective = built(kind, "opsd")
    own, taught, batch = passes(student, objective, SAMPLES)
    loss = objective.loss(own, taught, batch).total(batch.counts)
    want, tokens = torch.zeros((), dtype=torch.float64), 0
    logits = [(p.head.logits(p.hidden) / 1.1).split(batch.lengths.tolist()) for p in (own, taught)]
    for sample, s, t in zip(SAMPLES, *logits, strict=True):
        weights = torch.tensor(plain_weights(kind, len(sample.completion)), dtype=torch.float64)
        want = want + (weights * divergence(s, t, temperature=1.0)).sum()
        tokens += len(sample.completion)
    torch.testing.assert_close(loss, want / tokens, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_flow_weighs_its_transitions(kind: str, student: LanguageModel) -> None:
    """Each transition by the token it leads to, each pair of transitions by the product of both."""
    objective = built(kind)
    assert isinstance(objective, Weighted)
    own, taught, batch = passes(student, objective, SAMPLES)
    found = objective.loss(own, taught, batch).terms["flow"].total / batch.counts["flows"]
    weights = objective.weights(batch).split(batch.lengths.tolist())
    want = torch.zeros((), dtype=torch.float64)
    for b, row in enumerate(weights):
        places = batch.positions[b][batch.valid[b]]
        if len(places) < 2:
            continue
        w = row[places[1:]].double()
        w = w * len(w) / w.sum() if w.sum() > 0 else w
        pairs = w[:, None] * w[None, :]
        D = [p.states[:, b, : len(places)].double().diff(dim=1) for p in (own, taught)]
        S, T = (delta / (delta.norm(dim=-1, keepdim=True) + 1e-8) for delta in D)
        direction = (w * (1 - (S * T).sum(-1))).mean(-1)
        geometry = (pairs * (S @ S.mT - T @ T.mT).square()).mean((-2, -1))
        adjacent = (pairs * (S[:-1] @ S[1:].mT - T[:-1] @ T[1:].mT).square()).mean((-2, -1))
        want = want + ((direction + geometry) / 2).mean() / 2 + adjacent.mean() / 2
    torch.testing.assert_close(found.double(), want / batch.counts["flows"], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_in_parts_has_the_same_loss(kind: str, student: LanguageModel) -> None:
    objective = built(kind)
    whole, taught, batch = passes(student, objective, SAMPLES)
    want = objective.loss(whole, taught, batch).total(batch.counts)
    parts = [passes(student, objective, SAMPLES[start : start + 3]) for start in range(0, len(SAMPLES), 3)]
    found = torch.stack([objective.loss(*part).total(batch.counts) for part in parts]).sum()
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-9)


def test_the_gate_is_a_mean_over_the_tokens_of_which_the_student_is_not_sure(student: LanguageModel) -> None:
    """Loss and gradient against whole logits in float64, in micro-batches that divide by the count of all."""
    own = {"objective": "phf", "divergence": {"gate": 0.004, "clip": 0.001}, "flow": {"positions": 6}}
    objective = build_objective(TrainConfig.model_validate({**BASE, **own}))
    assert objective.needs.gate == 0.004
    values, gate_count = [], 0
    cut = [SAMPLES[start : start + 3] for start in range(0, len(SAMPLES), 3)]
    parts = [passes(student, objective, part, gate=0.004) for part in cut]
    counts = {name: sum(batch.counts[name] for *_, batch in parts) for name in parts[0][2].counts}
    terms = [objective.loss(*part) for part in parts]
    torch.stack([term.terms["divergence"].share(counts) for term in terms]).sum().backward()
    found = [p.grad.clone() for p in student.trainable().values() if p.grad is not None]
    student.network.zero_grad()
    for part in cut:
        own_pass, taught, batch = passes(student, objective, part)
        logits = own_pass.head.logits(own_pass.hidden).double(), taught.head.logits(taught.hidden).double().detach()
        open_ = (logits[0] / 1.1).softmax(-1).gather(1, batch.token_ids[:, None])[:, 0] <= 0.004
        values.append(divergence(*logits, temperature=1.1, clip=0.001)[open_])
        gate_count += int(open_.sum())
    assert 0 < gate_count == counts["gated"] < counts["tokens"]
    want = torch.cat(values).mean()
    assert sum(term.terms["divergence"].share(counts).item() for term in terms) == pytest.approx(want.item(), rel=1e-6)
    want.backward()
    plain = [p.grad for p in student.trainable().values() if p.grad is not None]
    for got, grad in zip(found, plain, strict=True):
        torch.testing.assert_close(got, grad, rtol=1e-5, atol=1e-9)
    total, all_tokens = (sum(term.metrics["gate_share"][part].item() for term in terms) for part in (0, 1))
    assert (total, all_tokens) == (counts["gated"], counts["tokens"])


def test_a_gate_that_lets_nothing_through_gives_no_divergence(student: LanguageModel) -> None:
    objective = built("uniform", "opsd")
    own, taught, batch = passes(student, objective, SAMPLES, gate=1e-9)
    loss = objective.loss(own, taught, batch).total(batch.counts)
    assert (loss.item(), batch.counts["gated"]) == (0, 0)


@pytest.mark.parametrize("start", ["reference-free", None])
def test_the_teachers_readings_become_the_target(student: LanguageModel, start: str | None) -> None:
    """Loss and gradient of a whole step's passes against the equation on whole logits in float64."""
    target = {"against": "reference-only", "start": start, "beta": 2.0, "bound": 3.0}
    tree = {**BASE, "objective": "opsd", "divergence": {"clip": None}, "target": target}
    objective = build_objective(TrainConfig.model_validate(tree))
    prompts = {"reference-free": [7, 8], "reference-only": [9, 10, 11]}
    assert objective.needs.contexts == (("reference-free",) if start else ()) + ("reference-only",)
    samples = [replace(s, further_prompts=[prompts[name] for name in objective.needs.contexts]) for s in SAMPLES[:4]]
    batch = collate(samples, 2, student.description.pad_id, CPU)
    teacher = AveragedTeacher(student.trainable(), 0.5)
    torch.manual_seed(3)
    teacher.load_state_dict({name: p + 0.05 * torch.randn_like(p) for name, p in student.trainable().items()})
    terms, _ = loss_terms(objective, student, teacher, None, batch)
    loss = terms.total(batch.counts)
    loss.backward()
    found = [p.grad.clone() for p in student.trainable().values() if p.grad is not None]
    student.network.zero_grad()

    def logits(prompt: Sequence[int], sample: Sample) -> Tensor:
        ids = torch.tensor([[*prompt, *sample.completion]])
        return student.causal(input_ids=ids).logits[0, len(prompt) - 1 : -1].double()

    values = []
    for sample in samples:
        with torch.no_grad(), teacher.weights():
            read = {name: (logits(prompt, sample) / 1.1).log_softmax(-1) for name, prompt in prompts.items()}
            plus = (logits(sample.teacher_prompt or (), sample) / 1.1).log_softmax(-1)
        contrast = plus - read["reference-only"]
        contrast = 3 * ((contrast - contrast.mean(-1, keepdim=True)) / 3).tanh()
        shifted = (read["reference-free"] if start else plus) + contrast / 2
        values.append(divergence(logits(sample.student_prompt, sample) / 1.1, shifted))
    want = torch.cat(values).mean()
    want.backward()
    assert loss.item() == pytest.approx(want.item(), rel=1e-6)
    for got, p in zip(found, student.trainable().values(), strict=True):
        torch.testing.assert_close(got, p.grad, rtol=1e-5, atol=1e-9)


def test_weights_that_are_lines_go_by_the_updates_made(student: LanguageModel) -> None:
    own = {"flow": {"positions": 6, "alpha": {10: 0.0, 0: 2.0}}, "divergence": {"weight": {0: 0.0, 4: 1.0}}}
    objective = build_objective(TrainConfig.model_validate({**BASE, "objective": "phf", **own}))
    one, taught, batch = passes(student, objective, SAMPLES[:3])
    for updates, alpha, weight in ((0, 2.0, 0.0), (1, 1.8, 0.25), (5, 1.0, 1.0), (10, 0.0, 1.0), (99, 0.0, 1.0)):
        found = objective.loss(one, taught, replace(batch, updates=updates)).terms
        assert (found["flow"].weight, found["divergence"].weight) == pytest.approx((alpha, weight))
    both = {"oprd": {"mu": {0: 0.5, 10: 0.0}}, "opd": {"weight": {0: 0.0, 10: 1.0}}}
    for support in ("sampled", "full"):
        both["opd"] |= {"support": support}  # type: ignore[dict-item]
        objective = build_objective(TrainConfig.model_validate({**BASE, "objective": "oprd", **both}))
        one, taught, batch = passes(student, objective, SAMPLES[:3])
        found = objective.loss(one, taught, replace(batch, updates=2)).terms
        assert sorted(term.weight for term in found.values()) == pytest.approx([0.2, 0.4])


def test_stops_that_share_their_probability_otherwise_are_no_difference(student: LanguageModel) -> None:
    tree = {**BASE, "objective": "opsd", "divergence": {"one_stop": True, "clip": None}}
    objective = build_objective(TrainConfig.model_validate(tree))
    one, taught, batch = passes(student, objective, SAMPLES[:3])
    assert one.stops == tuple(sorted(student.description.eos_ids))
    one, taught = (replace(read, stops=(4, 9)) for read in (one, taught))
    logits = [read.head.logits(read.hidden).double() / 1.1 for read in (one, taught)]
    merged = []
    for own in logits:
        p = own.softmax(-1)
        p[:, 4] += p[:, 9]
        merged.append(torch.cat((p[:, :9], p[:, 10:]), -1).log())
    found = objective.loss(one, taught, batch).total(batch.counts)
    assert found.item() == pytest.approx(divergence(*merged).mean().item(), rel=1e-6)


def test_equal_weights_are_none(student: LanguageModel) -> None:
    objective = built("uniform")
    own, taught, batch = passes(student, objective, SAMPLES)
    ones = replace(batch, weights=torch.ones(batch.counts["tokens"], dtype=own.hidden.dtype))
    plain, weighted = (objective.loss(own, taught, b).total(batch.counts) for b in (batch, ones))
    torch.testing.assert_close(weighted, plain)


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        (["weights=sigmoids"], "did you mean .sigmoid."),
        (["weights=skip-first-0"], "use skip-first-N with a number N"),
        (["weights=sigmoid", "objective=grpo"], "grpo has a term that weighs all tokens alike"),
        (["weights=sigmoid", "objective=pointwise"], "pointwise has a term that weighs all tokens alike"),
        (["divergence.gate=0.9", "divergence.aggregate=sequence"], "set divergence.aggregate=token"),
        (["target.bound=10"], "target: its settings shape a contrast; set target.against"),
        (["target.against=sibling"], "target: a sibling is not there for every problem"),
        (["target.against=answer", "teacher.context=sibling"], "set another teacher.context"),
        (["target.against=reference"], "target.against: it is teacher.context itself"),
        (["target.against=anser"], "target.against: 'anser' is unknown; did you mean 'answer'"),
        (["target.against=answer", "objective=grpo"], "target.against: grpo has no divergence from a target"),
        (["target.against=answer", "objective=opd"], "target.against: opd has no divergence from a target"),
        (["target.against=answer", "teacher.kind=external", "teacher.model=x"], "reads the problem alone"),
        (["divergence.gate=1"], "divergence.gate: must be less than 1"),
        (["weights=sigmoid", "objective=opd"], "opd has a term that weighs all tokens alike"),
    ],
)
def test_weights_that_cannot_be_had_are_refused(pairs: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        build_objective(resolve_train(set_sources(pairs)))


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
