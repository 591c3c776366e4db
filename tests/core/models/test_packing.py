"""Sequences packed into one row: where each lies, and attention that keeps them apart."""

from collections.abc import Callable

import pytest
import torch
from families import build, family
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from phfcli.core.models import passes
from phfcli.core.models.description import load_description
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.packing import CausalSequences, PackedRow, pack, row_arguments
from phfcli.core.models.passes import Batch, Sample, collate, run_pass
from phfcli.core.models.trial import can_pack
from phfcli.core.rollouts.transformers import TransformersEngine
from phfcli.core.types import Request, Sampling

CPU = torch.device("cpu")
LAYERS = (1, 3)
# Rounding alone: of 250 random batches the worst was 7e-15 and 1.1e-5, and a padded pass in float32 lies 4e-6 (median)
# from one in float64.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-5}
any_batch = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 12)), min_size=1, max_size=5)


def batch_of(lengths: list[tuple[int, int]], kinds: int = 97) -> Batch:
    """Prompts and completions of so many tokens; those of the same kind begin alike."""
    samples = [
        Sample(ids(prompt, row % kinds), ids(prompt + 3, row % kinds + 9), ids(count, row % kinds + 5))
        for row, (prompt, count) in enumerate(lengths)
    ]
    return collate(samples, 4, 0, CPU)


def ids(count: int, start: int) -> list[int]:
    return [5 + (start * 37 + 11 * i) % 90 for i in range(count)]


def outcome(model: LanguageModel, batch: Batch) -> list[Tensor]:
    """Hidden and captured states, then the gradient of a sum over them as one vector."""
    model.network.zero_grad(set_to_none=True)
    read = run_pass(model, batch.student, batch, LAYERS)
    assert read.final is not None
    chosen = [read.states[:, batch.valid], read.final[batch.valid]]
    (read.hidden.sin().sum() + sum(part.cos().sum() for part in chosen)).backward()
    gradients = [p.grad.flatten() for p in model.trainable().values() if p.grad is not None]
    assert len(gradients) == len(model.trainable())
    return [read.hidden, *chosen, torch.cat(gradients)]


def norms_in_full_precision(network: nn.Module) -> None:
    """Qwen3's norms round to float32 and would round the gradients of each sequence, or of all that share a token."""
    for name, norm in list(network.named_modules()):
        if isinstance(norm, Qwen3RMSNorm):
            whole = nn.RMSNorm(len(norm.weight), norm.variance_epsilon, dtype=norm.weight.dtype)
            whole.weight = norm.weight
            network.set_submodule(name, whole)


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm().clamp_min(1e-30)).detach())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_packed_equals_padded(student: LanguageModel, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    student.network.to(dtype)
    norms_in_full_precision(student.network)
    assert can_pack(student)

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(any_batch.filter(lambda lengths: any(count for _, count in lengths)), st.sampled_from([1, 2, 97]))
    def check(lengths: list[tuple[int, int]], kinds: int) -> None:
        batch = batch_of([(prompt, max(1, count)) for prompt, count in lengths], kinds)
        packed = outcome(student, batch)
        with monkeypatch.context() as patch:
            patch.setattr(passes, "can_pack", lambda _model: False)
            padded = outcome(student, batch)
        assert len(packed) == len(padded) > 3
        for a, b in zip(packed, padded, strict=True):
            assert relative(a, b) < TOLERANCE[dtype]

    check()


def test_an_empty_completion_reads_no_neighbour(student: LanguageModel) -> None:
    batch = batch_of([(4, 0), (9, 3), (20, 0)])
    read = run_pass(student, batch.student, batch, LAYERS)
    assert len(read.hidden) == 3
    assert torch.isfinite(read.states).all()


def test_a_shared_prompt_is_computed_once(student: LanguageModel) -> None:
    batch = batch_of([(20, 5), (20, 5), (20, 3)], kinds=1)
    assert can_pack(student)
    rows: list[int] = []
    hook = student.blocks[0].register_forward_hook(lambda _block, _args, out: rows.append(out.shape[1]))
    run_pass(student, batch.student, batch, LAYERS)
    hook.remove()
    assert rows == [20 + 5]  # all three are the beginning of the first


def test_padding_is_what_is_computed(student: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of([(4, 2), (9, 3)])
    assert [int(x) for x in passes.padding(student, batch)] == [0, 6 + 12 + 9 + 15]
    monkeypatch.setattr(passes, "can_pack", lambda _model: False)
    assert [int(x) for x in passes.padding(student, batch)] == [12, 24 + 30]


WINDOW = 16
SEQUENCES = [ids(50, 1), ids(30, 2), [*ids(20, 1), *ids(25, 3)], ids(4, 4)]  # the third begins as the first


@pytest.mark.parametrize("kind", ["mistral", "mixtral", "phi3", "starcoder2", "gemma3_text", "cohere2", "qwen2"])
def test_packed_sequences_longer_than_the_window_equal_eager_attention_one_at_a_time(kind: str) -> None:
    more = {"use_sliding_window": True, "max_window_layers": 1} if kind == "qwen2" else {}
    causal = build(family(kind), sliding_window=WINDOW, **more)
    model = LanguageModel(causal, causal, load_description("embedded"))
    assert can_pack(model)
    row = pack(SEQUENCES, CPU)
    packed = model.backbone(**row_arguments(row, CausalSequences(row))).last_hidden_state[0]
    states = torch.cat([row.gather(packed, number) for number in range(len(SEQUENCES))])
    causal.set_attn_implementation("eager")
    alone = [model.backbone(input_ids=torch.tensor([one]), use_cache=False) for one in SEQUENCES]
    wanted = torch.cat([out.last_hidden_state[0] for out in alone])
    assert relative(states, wanted) < 1e-5
    trained = [p for p in model.backbone.parameters() if p.requires_grad]
    got, expected = (torch.autograd.grad(x.sin().sum(), trained, allow_unused=True) for x in (states, wanted))
    assert relative(*(torch.cat([g.flatten() for g in part if g is not None]) for part in (got, expected))) < 1e-5


@pytest.mark.parametrize("kind", ["mistral", "phi3", "gemma3_text"])
def test_own_rollouts_longer_than_the_window_equal_eager_attention(kind: str) -> None:
    causal = build(family(kind), sliding_window=WINDOW)
    model = LanguageModel(causal, causal, load_description("embedded"))
    prompts = [tuple(one) for one in SEQUENCES]
    requests = [Request(prompt, seed) for seed, prompt in enumerate(prompts)]
    drawn = dict(TransformersEngine(model).sample(requests, Sampling(max_new_tokens=20)))
    assert can_pack(model)
    causal.set_attn_implementation("eager")
    for index, prompt in enumerate(prompts):
        completion = drawn[index]
        logits = causal(input_ids=torch.tensor([[*prompt, *completion.ids]]), use_cache=False).logits
        expected = logits[0, len(prompt) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(completion.ids)[:, None])
        torch.testing.assert_close(torch.tensor(completion.logprobs), expected[:, 0], rtol=1e-4, atol=1e-4)


def test_a_trial_leaves_the_mode_as_it_was(random_model: Callable[..., LanguageModel]) -> None:
    for training in (True, False):
        model = random_model()
        model.network.train(training)
        can_pack(model)
        assert model.network.training == training


alike = st.lists(st.integers(0, 1), min_size=1, max_size=9)  # two tokens: many begin alike, some are equal
some_sequences = st.lists(alike, min_size=1, max_size=6)


def held(row: PackedRow, values: torch.Tensor, sequence: int) -> list[int]:
    return row.gather(values[None, :, None], sequence).flatten().tolist()


@given(some_sequences)
def test_each_sequence_is_found_in_the_row(sequences: list[list[int]]) -> None:
    row = pack(sequences, CPU)
    for index, ids in enumerate(sequences):
        assert held(row, row.ids, index) == ids
        assert held(row, row.positions, index) == list(range(len(ids)))
        places = row.columns()[index]
        assert row.ids[places].tolist()[: len(ids)] == ids
        assert set(places[len(ids) - 1 :].tolist()) == {int(row.ends()[index])}


@given(some_sequences)
def test_a_beginning_is_held_once(sequences: list[list[int]]) -> None:
    distinct = {tuple(ids[: n + 1]) for ids in sequences for n in range(len(ids))}
    assert len(pack(sequences, CPU).ids) == len(distinct)


@given(some_sequences)
def test_what_is_computed_for_a_sequence_lies_together_in_the_order_of_sequences(sequences: list[list[int]]) -> None:
    row, start = pack(sequences, CPU), 0
    for pieces, own in zip(row.pieces, row.computed, strict=True):
        if own:
            assert pieces[-1] == slice(start, start + own)
        start += own
    assert start == len(row.ids)


def test_without_a_common_beginning_sequences_lie_one_behind_the_other() -> None:
    row = pack([[5, 6, 7], [8, 9]], CPU)
    assert row.ids.tolist() == [5, 6, 7, 8, 9]
    assert row.positions.tolist() == [0, 1, 2, 0, 1]
    assert row.computed == [3, 2]


def test_completions_of_one_problem_share_its_prompt_and_another_problem_the_template() -> None:
    template, first, second = [1, 2, 3, 4], [5, 6], [7]
    row = pack([[*template, *first, 10], [*template, *second, 12], [*template, *first, 11]], CPU)
    assert len(row.ids) == len(template) + len(first) + len(second) + 3


def test_a_short_beginning_of_long_sequences_is_not_shared() -> None:
    long = list(range(100, 200))
    assert len(pack([[1, *long], [1, 2, *long]], CPU).ids) == 203
