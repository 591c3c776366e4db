"""Attention of the shadow and the last block: against the weights that an eager model gives, and by hand."""

import math

import pytest
import torch
from rollout_samples import CPU, SAMPLES
from torch import Tensor

from phfcli.core.analysis.collect import AttentionSums, head_mean, part_sums
from phfcli.core.losses.pointwise import Attention
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.passes import collate

QUERIES = 64  # of the newest keys are all of these rollouts
PARTS = 32


def eager_weights(model: LanguageModel, place: int) -> list[Tensor]:
    """Of each block the attention of the tokens that predict a sample's completion: [H, n, T]."""
    sample = SAMPLES[place]
    ids = torch.tensor([[*sample.student_prompt, *sample.completion]])
    start = len(sample.student_prompt) - 1
    return [weights[0, :, start:-1] for weights in model.causal(input_ids=ids, output_attentions=True).attentions]


@torch.no_grad()
def test_the_divergence_is_that_of_eager_attention(student: LanguageModel) -> None:
    student.causal.set_attn_implementation("eager")
    sums, means = AttentionSums(student, shadow=1), []
    for part in (SAMPLES[:3], SAMPLES[3:]):
        sums.add(collate(part, QUERIES, student.description.pad_id, CPU))
    for place in range(len(SAMPLES)):
        p, _, q = eager_weights(student, place)
        middle = (p + q) / 2
        apart = (torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)).nan_to_num().sum(-1) / 2  # [H, n]
        means.append(float(apart.mean()))
    found = sums.result()
    assert found.divergence == pytest.approx(sum(means) / len(means), rel=1e-7)  # eager has a float32 softmax
    assert found.agreement == pytest.approx(1 - found.divergence / math.log(2))


@torch.no_grad()
def test_the_maps_are_of_the_first_rollout(student: LanguageModel) -> None:
    student.causal.set_attn_implementation("eager")
    sums = AttentionSums(student, shadow=2)
    sums.add(collate(SAMPLES, QUERIES, student.description.pad_id, CPU))
    found = sums.result()
    first, text = SAMPLES[0], student.description.text
    ids = [*first.student_prompt, *first.completion]
    length = len(ids) - 1  # nothing looks at the last token
    assert found.columns == list(range(len(first.student_prompt) - 1, length))
    _, shadow, last = (weights.mean(0)[:, :length] for weights in eager_weights(student, 0))
    assert length <= PARTS
    torch.testing.assert_close(torch.tensor(found.shadow_map, dtype=torch.float64), shadow, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(torch.tensor(found.last_map, dtype=torch.float64), last, rtol=1e-6, atol=1e-7)
    late = len(first.completion) // 4
    for token in found.tokens:
        assert token.text == text([ids[token.column]])
        assert token.shadow == pytest.approx(float(shadow[-late:, token.column].mean()))
        assert token.last == pytest.approx(float(last[-late:, token.column].mean()))


def test_attention_by_hand() -> None:
    """Two heads share one key head; at column 1 one looks at both tokens alike, one mostly at the second."""
    queries = torch.tensor([[[[9.0], [0.0], [9.0]], [[9.0], [math.log(3)], [9.0]]]])  # [B, H, T, c]
    keys = torch.tensor([[[[0.0], [1.0], [50.0]]]])  # the third lies behind the query
    found = head_mean(Attention(queries, keys, 1.0), torch.tensor([1]), length=3)
    assert found.tolist() == [pytest.approx([(1 / 2 + 1 / 4) / 2, (1 / 2 + 3 / 4) / 2, 0])]


def test_parts_of_the_columns_by_hand() -> None:
    attention = torch.tensor([[0.1, 0.2, 0.3, 0.3, 0.1]])
    assert part_sums(attention, parts=2).tolist() == [pytest.approx([0.6, 0.4])]
    assert part_sums(attention, parts=9).tolist() == [pytest.approx([0.1, 0.2, 0.3, 0.3, 0.1])]
