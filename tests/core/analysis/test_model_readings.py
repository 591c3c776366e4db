"""What the model's own passes say: against plain loops over its logits in float64, and by hand."""

import math
from typing import Any

import pytest
import torch
from rollout_samples import CPU, SAMPLES
from torch import Tensor

from phfcli.core.analysis.collect import LensSums, OutputSums, lens_values, predicting_pass, top_overlap
from phfcli.core.losses.head import Head
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import Batch, collate, run_pass

TEMPERATURE = 1.1


def batch_of(model: LanguageModel, samples: Any = SAMPLES, positions: int = 64) -> Batch:
    return collate(samples, positions, model.description.pad_id, CPU)


def probabilities(logits: Tensor) -> list[float]:
    scaled = [value / TEMPERATURE for value in logits.tolist()]
    top = max(scaled)
    weights = [math.exp(value - top) for value in scaled]
    return [weight / sum(weights) for weight in weights]


def entropy(p: list[float]) -> float:
    return -sum(x * math.log(x) for x in p if x > 0)


def jsd(p: list[float], q: list[float]) -> float:
    pairs = [(a, b, (a + b) / 2) for a, b in zip(p, q, strict=True)]
    return sum((a * math.log(a / m) if a else 0) + (b * math.log(b / m) if b else 0) for a, b, m in pairs) / 2


def predicted(model: LanguageModel, prompt: Any, completion: Any) -> Tensor:
    """[n, V]: the model's own logits for each token of a completion."""
    logits: Tensor = model.causal(input_ids=torch.tensor([[*prompt, *completion]])).logits[0]
    return logits[len(prompt) - 1 : -1]


@torch.no_grad()
def test_overlap_and_entropies_are_means_over_tokens(student: LanguageModel) -> None:
    sums, overlaps, own, others = OutputSums(TEMPERATURE), [], [], []
    for part in (SAMPLES[:3], SAMPLES[3:]):
        batch = batch_of(student, part)
        assert batch.teacher is not None
        sums.add(run_pass(student, batch.student, batch, ()), run_pass(student, batch.teacher, batch, ()), batch)
    for sample in SAMPLES:
        pair = (predicted(student, p, sample.completion) for p in (sample.student_prompt, sample.teacher_prompt))
        for one, other in zip(*pair, strict=True):
            a, b = (set(logits.argsort(descending=True)[:16].tolist()) for logits in (one, other))
            overlaps.append(len(a & b) / 16)
            own.append(entropy(probabilities(one)))
            others.append(entropy(probabilities(other)))
    found = sums.result()
    assert (found.tokens, found.top) == (len(overlaps), 16)
    for value, reference in ((found.overlap, overlaps), (found.entropy_student, own), (found.entropy_teacher, others)):
        assert value == pytest.approx(sum(reference) / len(reference), rel=1e-9)
    assert found.entropy_student != pytest.approx(found.entropy_teacher)


def test_sets_of_two_likeliest_words_by_hand() -> None:
    student = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1]])
    teacher = torch.tensor([[8.0, 9, 0, 1], [4, 1, 3, 2], [1, 2, 3, 4]])
    assert top_overlap(student, teacher, top=2).tolist() == [1, 0.5, 0]
    assert top_overlap(student, teacher).tolist() == [1, 1, 1]  # of four words all are among the sixteen likeliest


def test_a_sixteenth_without_a_token_has_no_value(student: LanguageModel) -> None:
    short = [sample for sample in SAMPLES if 0 < len(sample.completion) < 16][:1]
    batch = batch_of(student, short)
    read = run_pass(student, batch.student, batch, ())
    sums = OutputSums(TEMPERATURE)
    sums.add(read, read, batch)
    found = sums.result()
    count = len(short[0].completion)
    assert sum(value is not None for value in found.overlap_along) == count
    assert {value for value in found.overlap_along if value is not None} == {1.0}  # one reader beside itself


@torch.no_grad()
def test_every_block_is_read_where_it_predicts(student: LanguageModel) -> None:
    sums = LensSums(student, shadow=1, temperature=TEMPERATURE)
    for part in (SAMPLES[:3], SAMPLES[3:]):
        batch = batch_of(student, part)
        sums.add(predicting_pass(student, batch), batch)
    found = sums.result()
    values: list[list[tuple[float, float, float]]] = [[], [], []]
    for sample in SAMPLES:
        ids = torch.tensor([[*sample.student_prompt, *sample.completion]])
        blocks = student.causal(input_ids=ids, output_hidden_states=True).hidden_states
        last = predicted(student, sample.student_prompt, sample.completion)
        for layer in range(3):
            # transformers' last entry is behind the final norm already
            state = blocks[3][0] if layer == 2 else student.causal.model.norm(blocks[layer + 1][0])
            logits = student.causal.lm_head(state)[len(sample.student_prompt) - 1 : -1]
            for one, other in zip(logits, last, strict=True):
                p, q = probabilities(one), probabilities(other)
                values[layer].append((entropy(p), float(p.index(max(p)) == q.index(max(q))), jsd(p, q)))
    for place, measure in enumerate(found.by_layer()):
        reference = [sum(value[place] for value in layer) / len(layer) for layer in values]
        assert measure == pytest.approx(reference, rel=1e-9, abs=1e-12)
    assert (found.agreement[-1], found.divergence[-1]) == (1, 0)
    assert found.entropy[0] != pytest.approx(found.entropy[2], rel=1e-3)


def test_the_words_of_the_first_rollout(student: LanguageModel) -> None:
    sums = LensSums(student, shadow=1, temperature=TEMPERATURE)
    sums.add(predicting_pass(student, batch_of(student)), batch_of(student))
    found = sums.result()
    first, text = SAMPLES[0], student.description.text
    assert found.words == [text([token]) for token in first.completion][:12]
    likeliest = predicted(student, first.student_prompt, first.completion).argmax(-1).tolist()
    assert found.likeliest[-1] == [text([token]) for token in likeliest][:12]
    assert len(found.likeliest) == 3


def test_the_words_shown_stand_one_behind_the_other_however_few_positions_are_read(student: LanguageModel) -> None:
    long = max(SAMPLES, key=lambda sample: len(sample.completion))
    few, all_ = LensSums(student, 1, 1.1), LensSums(student, 1, 1.1)
    for sums, batch in ((few, batch_of(student, [long], positions=4)), (all_, batch_of(student, [long]))):
        sums.add(predicting_pass(student, batch), batch)
    text = student.description.text
    assert few.result().words == [text([token]) for token in long.completion[:12]]
    assert few.result().likeliest == all_.result().likeliest


def test_a_lens_by_hand() -> None:
    """Two blocks, one token, a head of two words: p = (1/4, 3/4) below, (1/2, 1/2) at the end."""
    head = Head(torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64))
    states = torch.tensor([[[1.0]], [[0.0]]], dtype=torch.float64)  # [L, n, d]
    (entropies, agreement, apart), words = lens_values(states, head, temperature=1.0)
    assert entropies[:, 0].tolist() == pytest.approx([math.log(4) - 3 / 4 * math.log(3), math.log(2)])
    assert agreement[:, 0].tolist() == [0, 1]
    below = (1 / 4 * math.log(2 / 3) + 3 / 4 * math.log(6 / 5)) / 2  # beside (3/8, 5/8)
    assert apart[:, 0].tolist() == pytest.approx([below + (math.log(4 / 3) + math.log(4 / 5)) / 4, 0])
    assert words[:, 0].tolist() == [1, 0]
