"""What the pass leaves of an intermediate block: its prediction, and the attention that the model really used."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from checkpointing import check_gradients_stay
from families import build, family
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from phfcli.core.config import LoraSettings
from phfcli.core.errors import UserError
from phfcli.core.losses.pointwise import Attention, attention_logits
from phfcli.core.models.language_model import LanguageModel, lens_layer
from phfcli.core.models.lora import add_lora
from phfcli.core.models.passes import Pass, Sample, collate, run_pass
from phfcli.core.models.trial import check_logit_lens

CPU = torch.device("cpu")
SAMPLES = [Sample([5, 9, 7], None, [11, 12, 13, 14]), Sample([8] * 6, None, [21, 22]), Sample([3], None, [31] * 9)]

Model = Callable[..., LanguageModel]


def passed(model: LanguageModel, lens: int = 1) -> tuple[Any, Pass]:
    batch = collate(SAMPLES, 4, model.description.pad_id, CPU)
    return batch, run_pass(model, batch.student, batch, (), lens)


def probabilities(layer: Attention, rows: int, columns: int) -> Tensor:
    """Of all queries over all keys before them: [B, H, T, T]."""
    every = torch.arange(columns).expand(rows, columns)
    logits = attention_logits(layer, every, every[:, None].expand(rows, columns, columns)).transpose(1, 2)
    return logits.masked_fill(torch.ones(columns, columns).triu(1).bool(), -torch.inf).softmax(-1)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("lens", [1, 2])
def test_captured_queries_and_keys_give_the_models_own_attention(
    student: LanguageModel, implementation: str, lens: int
) -> None:
    student.causal.set_attn_implementation(implementation)
    batch, result = passed(student, lens)
    student.causal.set_attn_implementation("eager")
    own = student.causal(
        input_ids=batch.student.input_ids, attention_mask=batch.student.attention_mask, output_attentions=True
    ).attentions
    assert result.lens is not None
    for got, want in ((result.lens.attention, own[lens - 1]), (result.lens.last, own[-1])):
        for row, (prompt, length) in enumerate(zip(batch.student.prompt_lengths, batch.lengths, strict=True)):
            valid = slice(0, int(prompt + length))
            # the eager softmax is in float32
            mine = probabilities(got, *want.shape[::3])[row, :, valid]
            torch.testing.assert_close(mine, want[row, :, valid], rtol=1e-5, atol=1e-6)


def test_the_hidden_state_is_the_blocks_output_after_the_final_norm(student: LanguageModel) -> None:
    _, result = passed(student, 2)
    assert result.lens is not None
    expected = []
    for sample in SAMPLES:
        ids = torch.tensor([[*sample.student_prompt, *sample.completion]])
        states = student.causal(input_ids=ids, output_hidden_states=True).hidden_states[2][0]
        expected.append(student.backbone.norm(states[len(sample.student_prompt) - 1 : -1]))
    torch.testing.assert_close(result.lens.hidden, torch.cat(expected))


def test_gradient_checkpointing_changes_no_gradient(student: LanguageModel) -> None:
    def loss() -> Tensor:
        _, result = passed(student)
        assert result.lens is not None
        own, last = result.lens.attention, result.lens.last
        kept = (result.hidden, result.lens.hidden, own.queries, own.keys, last.queries)
        return torch.stack([x.square().sum() for x in kept]).sum()

    check_gradients_stay(student, loss)


def test_nothing_is_left_behind(student: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_options: Any) -> None:
        raise RuntimeError

    before = dict(ALL_ATTENTION_FUNCTIONS)
    passed(student)
    monkeypatch.setattr(student.blocks[1], "forward", fail)
    with pytest.raises(RuntimeError):
        passed(student)
    assert dict(ALL_ATTENTION_FUNCTIONS) == before
    assert not any(block._forward_hooks for block in student.blocks)


@pytest.mark.parametrize(("depth", "layer"), [(36, 6), (28, 5), (4, 1), (2, 1)])
def test_the_default_is_a_sixth_of_the_depth(depth: int, layer: int) -> None:
    assert lens_layer(0, depth) == layer
    assert lens_layer(3, depth) == 3


def test_what_cannot_be_captured_is_refused(random_model: Model) -> None:
    model = random_model()
    check_logit_lens(model.causal, 2)
    with pytest.raises(UserError, match=r"oisd.layer: must lie below the last of the model's 3 decoder blocks, got 3"):
        check_logit_lens(model.causal, 3)
    sliding = random_model(use_sliding_window=True, sliding_window=4, max_window_layers=1)
    with pytest.raises(UserError, match="attend to a sliding window"):
        check_logit_lens(add_lora(sliding, LoraSettings(r=2), 0).causal, 1)
    mistral = build(family("mistral"), sliding_window=4)  # its blocks do not hold the window
    with pytest.raises(UserError, match="attend to a sliding window"):
        check_logit_lens(mistral, 1)
