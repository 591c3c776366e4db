"""The metrics of a step: of its tokens, its rollouts, and over all ranks."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

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
from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.shipped_files import objectives
from phfcli.core.step_metrics import PHASES
from phfcli.core.training.metrics import distinct_answers, engine_gap, repetition, sparse_entropy, token_metrics
from phfcli.core.training.setup import build_trainer
from phfcli.core.types import Completion, Sampling

PROGRAM = "import torch; from phfcli.core.training.metrics import peak_memory; print(peak_memory(torch.device('cpu')))"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="elsewhere the system has no such figure")
def test_a_process_started_by_a_larger_one_tells_its_own_peak() -> None:
    ballast = bytearray(12 * 10**8)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < len(ballast) / 2


@pytest.mark.slow
def test_phases_of_a_step_are_told_apart_and_are_all_of_it(tmp_path: Path) -> None:
    """Whichever part becomes slow, it is that phase's seconds that grow."""
    pairs = ("data=embedded", "device=cpu", "batch_size=2", "micro_batch_size=1", "rollout.max_new_tokens=8", "steps=1")
    trainer = build_trainer(resolve_train(set_sources(pairs)), tmp_path / "run", fresh=True)
    trainer.teacher.run_pass = slow(trainer.teacher.run_pass)  # type: ignore[method-assign]
    (step,) = trainer.train()
    assert step["teacher_seconds"] > 0.4  # two micro-batches
    assert all(step[f"{phase}_seconds"] > 0 for phase in PHASES)
    assert sum(step[f"{phase}_seconds"] for phase in PHASES) == pytest.approx(step["seconds"])


def slow(function: Callable[..., Any]) -> Callable[..., Any]:
    def later(*args: Any) -> Any:
        time.sleep(0.2)
        return function(*args)

    return later


@pytest.mark.parametrize(
    ("ids", "looped"),
    [
        ([*range(100, 110), *[1, 2] * 15], True),
        ([*range(100, 110), *[1, 2] * 14], False),  # 28 tokens
        ([7] * 30, True),  # a period of one is one of two
        ([7] * 29, False),
        ([*range(20), *range(20), *range(20)], True),
        ([*range(20), *range(20), *range(19)], False),  # not three times
        ([*range(50)] * 3, True),
        ([*range(51)] * 3, False),  # a longer period than is looked for
        ([*[1, 2, 3] * 20, 4], False),  # it has left the loop
        ([*[1, 2, 3] * 20, 1, 2], True),  # within it
        ([], False),
        ([5], False),
        ([*range(200)], False),
    ],
)
def test_a_loop_is_three_repeats_of_2_to_50_tokens_that_reach_the_end(ids: list[int], looped: bool) -> None:
    assert Completion(tuple(ids), (), "length").looped == looped
    found = False  # by the definition, period by period and start by start
    for period in range(2, 51):
        for start in range(len(ids) - period):
            if all(ids[t] == ids[t - period] for t in range(start + period, len(ids))):
                length = len(ids) - start
                found |= length // period >= 3 and length >= 30
    assert found == looped


def test_repetition_is_the_share_of_runs_written_before() -> None:
    assert repetition(range(100)) == 0
    assert repetition(range(5)) == 0
    assert repetition([7] * 107) == pytest.approx(0.99)
    assert repetition([*range(50), *range(50)]) == pytest.approx(43 / 93)


def test_distinct_answers_are_counted_by_problem() -> None:
    assert distinct_answers(["1", "1", None, "2", "3", "4"], group=3) == 2
    assert distinct_answers([None, None], group=2) == 0


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
