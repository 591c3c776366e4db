"""The two passes: what is captured, where, and that padding changes nothing."""

from collections.abc import Callable, Sequence

import pytest
import torch
from checkpointing import check_gradients_stay
from torch import Tensor

from phfcli.core.losses.divergence import divergence
from phfcli.core.losses.fused_divergence import fused_divergence
from phfcli.core.losses.policy_gradient import token_logprobs
from phfcli.core.models.language_model import LanguageModel, capture_states
from phfcli.core.models.passes import Sample, collate, run_pass, states_with_final_norm
from phfcli.core.training.pass_memory import Allocations

LAYERS = (1, 2, 3)
CPU = torch.device("cpu")


def sample(prompt: int, privileged: int, completion: int, start: int = 5) -> Sample:
    ids = [start + 7 * i % 200 for i in range(200)]
    return Sample(ids[:prompt], ids[50 : 50 + privileged], ids[90 : 90 + completion])


SAMPLES = [sample(3, 9, 6), sample(8, 4, 1, start=11), sample(1, 30, 12, start=23), sample(5, 5, 2, start=31)]


def test_the_captured_state_is_the_blocks_output_before_the_final_norm(student: LanguageModel) -> None:
    batch = collate([sample(4, 6, 10)], 128, student.description.pad_id, CPU)
    passed = run_pass(student, batch.student, batch, LAYERS)
    states = passed.states  # [3, 1, 10, d]
    out = student.causal(
        input_ids=batch.student.input_ids, attention_mask=batch.student.attention_mask, output_hidden_states=True
    )
    own = [h[:, 4:14] for h in out.hidden_states]  # embeddings, then blocks 1 to 3, the last after the final norm
    for layer in (1, 2):
        torch.testing.assert_close(states[layer - 1], own[layer])
    torch.testing.assert_close(student.backbone.norm(states[2]), own[3])
    assert not torch.allclose(states[2], own[3])
    assert passed.final is not None
    torch.testing.assert_close(passed.final, own[3])
    seen = student.backbone.layers[-1]
    kept: list[Tensor] = []
    handle = seen.register_forward_hook(lambda _m, _a, output: kept.append(output))
    student.backbone(input_ids=batch.student.input_ids)
    handle.remove()
    torch.testing.assert_close(states[2], kept[0][:, 4:14])


def test_heads_read_the_last_blocks_after_the_final_norm(student: LanguageModel) -> None:
    batch = collate(SAMPLES, 4, student.description.pad_id, CPU)
    deep, low = (run_pass(student, batch.student, batch, layers) for layers in ((1, 3), (1, 2)))
    assert deep.final is not None
    for read in states_with_final_norm(deep, deep):
        torch.testing.assert_close(read[0], deep.states[0])
        torch.testing.assert_close(read[1], deep.final)
    # a block of the student that is not its last may lie as deep as the last of a teacher with fewer blocks
    own, other = states_with_final_norm(low, deep)
    torch.testing.assert_close(own, low.states)
    torch.testing.assert_close(other, deep.states)


def test_hidden_predicts_each_token_of_the_completion(student: LanguageModel) -> None:
    batch = collate(SAMPLES, 4, student.description.pad_id, CPU)
    assert batch.teacher is not None
    for reading, prompts in (
        (batch.student, [s.student_prompt for s in SAMPLES]),
        (batch.teacher, [s.teacher_prompt or [] for s in SAMPLES]),
    ):
        logits = run_pass(student, reading, batch, ()).hidden @ student.head.T
        expected = []
        for prompt, one in zip(prompts, SAMPLES, strict=True):
            full = student.causal(input_ids=torch.tensor([[*prompt, *one.completion]])).logits[0]
            expected.append(full[len(prompt) - 1 : -1])
        torch.testing.assert_close(logits, torch.cat(expected))


def test_a_padded_batch_equals_its_samples_one_by_one(student: LanguageModel) -> None:
    together = collate(SAMPLES, 4, student.description.pad_id, CPU)
    assert together.teacher is not None
    passed = run_pass(student, together.teacher, together, LAYERS)
    start = 0
    for row, one in enumerate(SAMPLES):
        alone = collate([one], 4, student.description.pad_id, CPU)
        assert alone.teacher is not None
        single = run_pass(student, alone.teacher, alone, LAYERS)
        count, selected = len(one.completion), int(alone.valid.sum())
        torch.testing.assert_close(passed.hidden[start : start + count], single.hidden)
        torch.testing.assert_close(passed.states[:, row, :selected], single.states[:, 0, :selected])
        assert together.valid[row].sum() == selected
        start += count


def test_the_teacher_pass_keeps_only_the_selected_columns(student: LanguageModel) -> None:
    batch = collate([sample(4, 6, 100)], 8, student.description.pad_id, CPU)
    with torch.no_grad():
        without = run_pass(student, batch.student, batch, LAYERS).states
    with_grad = run_pass(student, batch.student, batch, LAYERS).states
    assert without.shape == (3, 1, 8, 32)
    assert with_grad.requires_grad
    torch.testing.assert_close(without, with_grad.detach())


def test_no_hook_is_left_behind(student: LanguageModel) -> None:
    zero = torch.zeros(1, 1, dtype=torch.long)

    def fail() -> None:
        with capture_states([student.blocks[0]], (zero, zero)):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not student.blocks[0]._forward_hooks


def test_gradient_checkpointing_changes_neither_states_nor_gradients(student: LanguageModel) -> None:
    batch = collate(SAMPLES, 4, student.description.pad_id, CPU)

    def loss() -> Tensor:
        passed = run_pass(student, batch.student, batch, LAYERS)
        return passed.states.square().sum() + passed.hidden.square().sum()

    check_gradients_stay(student, loss)


def test_the_gradient_of_captured_states_is_that_of_plain_indexing(random_model: Callable[..., LanguageModel]) -> None:
    model = random_model()
    batch = collate(SAMPLES, 4, model.description.pad_id, CPU)
    chosen = (1, 3)
    passed = run_pass(model, batch.student, batch, chosen)
    picked = batch.valid[None, :, :, None]
    (passed.hidden.square().sum() + (picked * passed.states).pow(3).sum()).backward()
    ours = {name: p.grad for name, p in model.trainable().items()}
    model.network.zero_grad(set_to_none=True)

    kept: list[Tensor] = []
    handles = [model.blocks[i - 1].register_forward_hook(lambda _m, _a, output: kept.append(output)) for i in chosen]
    reading = batch.student
    out = model.backbone(input_ids=reading.input_ids, attention_mask=reading.attention_mask).last_hidden_state
    for handle in handles:
        handle.remove()
    rows, offsets = batch.tokens
    hidden = out[rows, reading.prompt_lengths[rows] + offsets - 1]
    every, columns = torch.arange(4)[:, None], reading.prompt_lengths[:, None] + batch.positions
    states = torch.stack([state[every, columns.clamp_max(state.shape[1] - 1)] for state in kept])
    (hidden.square().sum() + (picked * states).pow(3).sum()).backward()
    for name, p in model.trainable().items():
        torch.testing.assert_close(ours[name], p.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_captured_states_cost_no_gradient_of_the_whole_sequence_for_each_block(
    random_model: Callable[..., LanguageModel],
) -> None:
    model = random_model(num_hidden_layers=12)
    model.causal.train()
    model.causal.gradient_checkpointing_enable({"use_reentrant": False})
    batch = collate([sample(4, 6, 100)], 4, model.description.pad_id, CPU)

    def taken(layers: Sequence[int]) -> int:
        passed = run_pass(model, batch.student, batch, layers)
        with Allocations() as backward:
            (passed.hidden.sum() + passed.states.sum()).backward()
        return backward.peak

    sequence = batch.student.input_ids.numel() * 32 * 8  # bytes of [B, T, d]
    taken((1,))  # the gradients of the weights are there from here on
    assert taken(range(1, 13)) - taken((1,)) < 2 * sequence


def test_counts() -> None:
    batch = collate([sample(2, 2, 0), sample(2, 2, 1), sample(2, 2, 2), sample(2, 2, 7)], 4, 0, CPU)
    assert batch.counts == {"tokens": 10, "gated": 10, "samples": 3, "states": 3, "positions": 7, "flows": 2}
    rows, offsets = batch.tokens
    assert rows.tolist() == [1, 2, 2, *[3] * 7]
    assert offsets.tolist() == [0, 0, 1, *range(7)]


@pytest.mark.parametrize("tied", [True, False])
def test_all_weights_get_the_gradient_of_the_plain_loss(random_model: Callable[..., LanguageModel], tied: bool) -> None:
    """With tied embeddings the head's part of it and the inputs' add up."""
    model, teacher = random_model(tie_word_embeddings=tied), random_model(initializer_range=0.2)
    batch = collate(SAMPLES, 4, model.description.pad_id, CPU)
    assert batch.teacher is not None
    with torch.no_grad():
        privileged = run_pass(teacher, batch.teacher, batch, ())
    loss = fused_divergence(
        (student := run_pass(model, batch.student, batch, ())).hidden,
        privileged.hidden,
        student.head,
        torch.ones(len(student.hidden)),
        teacher_head=teacher.head,
        chunk_size=5,
    )
    likelihood = token_logprobs(student.hidden, student.head, batch.token_ids, chunk_size=5).sum()
    (loss - likelihood).backward()
    ours = {name: p.grad for name, p in model.trainable().items()}
    model.network.zero_grad(set_to_none=True)

    rows, offsets = batch.tokens
    reading = batch.student
    logits = model.causal(input_ids=reading.input_ids, attention_mask=reading.attention_mask).logits
    logits = logits[rows, reading.prompt_lengths[rows] + offsets - 1]
    plain = divergence(logits, privileged.hidden @ teacher.head.T).sum()
    (plain - logits.log_softmax(-1).gather(1, batch.token_ids[:, None]).sum()).backward()
    assert ("lm_head.weight" in ours) != tied
    for name, p in model.trainable().items():
        torch.testing.assert_close(ours[name], p.grad, msg=lambda text, name=name: f"{name}: {text}")
