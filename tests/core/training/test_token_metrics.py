"""Entropy, forks and maps of every objective, against whole logits."""

from dataclasses import replace

import pytest
import torch
from rollout_samples import BASE, CPU, SAMPLES
from torch import Tensor

from phfcli.core.config import TrainConfig
from phfcli.core.losses.positions import POSITION_PARTS, position_part
from phfcli.core.models.architecture import pick_layers
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Sample, collate, run_pass
from phfcli.core.objectives.build import build_objective
from phfcli.core.shipped_files import objectives
from phfcli.core.training.metrics import engine_gap, sparse_entropy, token_metrics
from phfcli.core.types import Sampling

FORK = 2.0  # above ln 2, so that the random model has tokens on both sides


@pytest.fixture(autouse=True)
def fork_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phfcli.core.training.metrics.FORK_ENTROPY", FORK)


def whole_logits(student: LanguageModel, temperature: float) -> Tensor:
    parts = []
    for s in SAMPLES:
        with torch.no_grad():
            logits = student.causal(input_ids=torch.tensor([[*s.student_prompt, *s.completion]])).logits[0]
        parts.append(logits[len(s.student_prompt) - 1 : -1] / temperature)
    return torch.cat(parts)


@pytest.mark.parametrize("name", objectives())
@pytest.mark.parametrize("top_k", [None, 5])
def test_the_entropy_is_that_of_the_whole_vocabulary(name: str, top_k: int | None, student: LanguageModel) -> None:
    config = TrainConfig.model_validate({"objective": name, **BASE, "divergence": {"top_k": top_k}})
    objective = build_objective(config)
    batch = collate(SAMPLES, objective.needs.positions, student.description.pad_id, CPU, objective.needs.where)
    layers = pick_layers(objective.needs.layers, len(student.blocks))
    own = run_pass(student, batch.student, batch, layers, objective.needs.lens)
    assert batch.teacher is not None
    teacher = run_pass(student, batch.teacher, batch, layers) if objective.needs.teacher else None
    readings = objective.loss(own, teacher, batch).readings
    temperature = 1.0 if name == "sft" else config.rollout.temperature
    want = torch.distributions.Categorical(logits=whole_logits(student, temperature)).entropy()
    if name == "oprd":  # reads no vocabulary: a few tokens are looked at, here all
        assert readings is None
        torch.testing.assert_close(sparse_entropy(own, temperature), want, rtol=1e-9, atol=1e-9)
        return
    assert readings is not None
    torch.testing.assert_close(readings.entropy, want, rtol=1e-9, atol=1e-9)
    assert not readings.entropy.requires_grad
    metrics = token_metrics(readings, batch)
    total, count = metrics["entropy"]
    assert (total / count).item() == pytest.approx(want.mean().item())
    assert (metrics["fork_share"][0] / count).item() == pytest.approx((want > FORK).double().mean().item())
    if readings.divergence is not None:
        rows, offsets = batch.tokens
        part = position_part(offsets, batch.lengths[rows])
        sums, counts = metrics["divergence_by_position"]
        for place in range(POSITION_PARTS):
            assert sums[place].item() == pytest.approx(readings.divergence[part == place].sum().item())
        assert counts.sum() == len(rows) == metrics["tokens_by_entropy"][0].sum()


@pytest.mark.parametrize("sampling", [Sampling(1.1), Sampling(1.1, 0.9, 7), Sampling(0.8, 0.6)])
def test_the_gap_is_between_the_distributions_that_were_drawn_from(sampling: Sampling, student: LanguageModel) -> None:
    batch = collate(SAMPLES, 2, student.description.pad_id, CPU)
    own = run_pass(student, batch.student, batch, ())
    sums, largest = engine_gap(own, batch, sampling)
    engine = torch.tensor([value for sample in SAMPLES for value in sample.logprobs])
    logits = whole_logits(student, sampling.temperature)
    if sampling.top_k:
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[:, -1:], -torch.inf)
    if sampling.top_p < 1:
        values, order = logits.sort(descending=True)
        before = values.softmax(-1).cumsum(-1) - values.softmax(-1)
        outside = torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, before >= sampling.top_p)
        logits = logits.masked_fill(outside, -torch.inf)
    uncut = whole_logits(student, sampling.temperature).gather(1, batch.token_ids[:, None])[:, 0]
    gap = uncut - logits.logsumexp(-1) - engine
    total, count = sums["engine_gap"]
    assert (total / count).item() == pytest.approx(gap.abs().mean().item(), rel=1e-4)
    assert largest is not None
    assert largest.item() == pytest.approx(gap.abs().max().item(), rel=1e-4)
    assert (sums["engine_kl"][0] / count).item() == pytest.approx((gap.exp() - 1 - gap).mean().item(), rel=1e-3)


def test_the_gap_leaves_out_what_no_engine_has_drawn(student: LanguageModel) -> None:
    """References among the rollouts have no log-probabilities of an engine."""
    drawn, reference = SAMPLES[0], replace(SAMPLES[1], logprobs=())
    pad = student.description.pad_id

    def gap(*samples: Sample) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor | None]:
        batch = collate(samples, 2, pad, CPU)
        return engine_gap(run_pass(student, batch.student, batch, ()), batch, Sampling(1.1))

    (alone, largest), (mixed, largest_mixed) = gap(drawn), gap(reference, drawn)
    for name in alone:
        torch.testing.assert_close(mixed[name], alone[name], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(largest_mixed, largest, rtol=1e-6, atol=1e-9)
    none, largest_none = gap(reference)
    assert largest_none is None
    assert none["engine_gap"][1] == 0
