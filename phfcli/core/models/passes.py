"""The two forward passes over a rollout: the student after its prompt, the teacher after the privileged one.

Shapes: B samples, T columns, C completion tokens, m selected positions, N valid tokens of the batch, L layers, d width.
Completions are aligned by their own token ids: each reader finds token t of sample b at its own column
prompt_length[b] + t. Where the model allows it, the sequences are computed one behind the other, without padding,
and a prefix that several of them share is computed once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from phfcli.core.losses.head import Head
from phfcli.core.losses.positions import select_positions
from phfcli.core.models.device import to_device
from phfcli.core.models.language_model import LanguageModel, LogitLens, capture_logit_lens, capture_states
from phfcli.core.models.packing import CausalSequences, pack, row_arguments
from phfcli.core.models.trial import can_pack
from phfcli.core.names import Where


@dataclass(frozen=True)
class Sample:
    """A rollout with the prompts after which student and teacher read it.

    Attributes:
        logprobs: those of the completion's tokens under the distribution they were drawn from; empty without.
        group: the rewards of all completions of the same problem, this one's included; empty without.
        aligned_positions: for a teacher with another tokenizer, the positions of the completion at which a token of
            the teacher ends as well, pair by pair; None is every position.
        in_teacher_tokens: for such a teacher, the same text in its tokens.
        further_prompts: those after which the teacher reads it besides, where its target is made of several readings.
    """

    student_prompt: Sequence[int]
    teacher_prompt: Sequence[int] | None
    completion: Sequence[int]
    logprobs: Sequence[float] = ()
    reward: float = 0.0
    group: Sequence[float] = ()
    aligned_positions: Sequence[int] | None = None
    in_teacher_tokens: "Sample | None" = None
    further_prompts: Sequence[Sequence[int]] = ()

    @property
    def columns(self) -> int:
        """Columns of the sample for all readers together."""
        prompts = (self.student_prompt, self.teacher_prompt or (), *self.further_prompts)
        count = sum(map(len, prompts)) + max(2, len(prompts)) * len(self.completion)
        return count if self.in_teacher_tokens is None else count + self.in_teacher_tokens.columns


@dataclass(frozen=True)
class ReaderInput:
    """One reader's sequences: its own prompt, then the completion. Padded on the right."""

    sequences: Sequence[Sequence[int]]  # without padding, for the host
    input_ids: Tensor  # [B, T]
    attention_mask: Tensor  # [B, T]
    prompt_lengths: Tensor  # [B]


@dataclass(frozen=True)
class Gate:
    """Which of the N tokens a loss looks at, from a pass of the student before the loss: their number divides it."""

    open: Tensor  # [N] bool
    entropy: Tensor  # [N] of the student at every token, in nats


@dataclass(frozen=True)
class Batch:
    """Some samples as tensors."""

    samples: Sequence[Sample]
    student: ReaderInput
    teacher: ReaderInput | None
    lengths: Tensor  # [B], of the completions, the end-of-sequence token included
    positions: Tensor  # [B, m], selected positions within the completion
    valid: Tensor  # [B, m]
    selected: Sequence[int]  # of each sample, how many positions are valid
    in_teacher_tokens: "Batch | None" = None  # the same samples in the tokens of a teacher with another tokenizer
    weights: Tensor | None = None  # [N], of the tokens, with mean 1 over each completion; None is 1 for every token
    base: "Pass | None" = None  # the base model's pass over the student's sequences, where an objective needs it
    updates: int = 0  # made before this step, by which weights that are lines over steps go
    further: Sequence[ReaderInput] = ()  # of the teacher, after each sample's further prompts
    readings: Sequence["Pass"] = ()  # the teacher's passes over these
    gate: "Gate | None" = None  # where an objective looks at some tokens alone

    @cached_property
    def tokens(self) -> tuple[Tensor, Tensor]:
        """Row and position within the completion of each of the N valid tokens: [N], [N]."""
        counts = torch.tensor([len(sample.completion) for sample in self.samples])
        rows, offsets = torch.nonzero(torch.arange(int(counts.max())) < counts[:, None], as_tuple=True)
        return to_device(rows, self.lengths.device), to_device(offsets, self.lengths.device)

    @property
    def position_weights(self) -> Tensor | None:
        """The token weights at the selected positions, [B, m]; 0 where a position is not valid."""
        if self.weights is None:
            return None
        starts = self.lengths.cumsum(0) - self.lengths
        index = (starts[:, None] + self.positions).masked_fill(~self.valid, 0)
        return self.weights[index].masked_fill(~self.valid, 0)

    @cached_property
    def token_ids(self) -> Tensor:
        """The ids of the N valid tokens, [N]."""
        rows, offsets = self.tokens
        return self.student.input_ids[rows, self.student.prompt_lengths[rows] + offsets]

    @property
    def drawn_logprobs(self) -> Tensor:
        """Log-probability of each of the N tokens when it was drawn, [N] in float64; NaN where there is none."""
        return to_device(self.drawn_values, self.lengths.device)

    @property
    def drawn_values(self) -> Tensor:
        """The same on the CPU."""
        values = [value for s in self.samples for value in (s.logprobs or [math.nan] * len(s.completion))]
        return torch.tensor(values, dtype=torch.float64)

    @cached_property
    def counts(self) -> dict[str, int]:
        """The counts by which terms of the loss are divided, over this batch."""
        lengths = [len(sample.completion) for sample in self.samples]
        return {
            "tokens": (tokens := sum(lengths)),
            "gated": tokens if self.gate is None else int(self.gate.open.sum()),
            "samples": sum(length > 0 for length in lengths),
            "states": sum(count > 0 for count in self.selected),  # samples with a selected position
            "positions": sum(self.selected),
            "flows": sum(length > 1 for length in lengths),  # samples with a transition
        }


@dataclass(frozen=True)
class Pass:
    """The result of a forward pass that an objective reads."""

    hidden: Tensor  # [N, d], after the final norm, at the column that predicts each valid token
    head: Head  # of [V, d]
    states: Tensor  # [L, B, m, d], the output of each captured block at the selected positions, before the final norm
    final: Tensor | None = None  # [B, m, d], the last block's states after the final norm, where it is captured
    lens: LogitLens | None = None  # where the objective asks for it
    layers: tuple[int, ...] = ()  # the numbers of the captured blocks, 1 is the first
    depth: int = 0  # the number of the model's blocks
    stops: tuple[int, ...] = ()  # the tokens that end a completion, ascending


def collate(
    samples: Sequence[Sample],
    positions: int,
    pad_id: int,
    device: torch.device,
    where: Where = "spread",
    updates: int = 0,
) -> Batch:
    """Samples as one padded batch, with at most `positions` selected positions each."""
    lengths = torch.tensor([len(sample.completion) for sample in samples])
    selected, valid = _select(samples, lengths, positions, where)
    student = _reader_input([s.student_prompt for s in samples], samples, pad_id, device)
    privileged = [s.teacher_prompt for s in samples if s.teacher_prompt is not None]
    teacher = _reader_input(privileged, samples, pad_id, device) if privileged else None
    in_others = [s.in_teacher_tokens for s in samples if s.in_teacher_tokens is not None]
    in_teacher_tokens = (
        collate(in_others, positions, 0, device, where) if in_others else None
    )  # every tokenizer has an id 0
    by_context = zip(*(s.further_prompts for s in samples), strict=True)
    further = [_reader_input(prompts, samples, pad_id, device) for prompts in by_context]
    return Batch(
        samples,
        student,
        teacher,
        to_device(lengths, device),
        to_device(selected, device),
        to_device(valid, device),
        valid.sum(1).tolist(),
        in_teacher_tokens,
        further=further,
        updates=updates,
    )


def common_heads(student: Pass, teacher: Pass) -> tuple[Head, Head | None]:
    """Both LM heads on the vocabulary that they share; the teacher's is None where both are the same head.

    Models of one tokenizer may pad their vocabularies to different sizes.
    """
    if teacher.head.weight is student.head.weight:
        return student.head, None
    size = min(len(student.head), len(teacher.head))
    return student.head.first(size), teacher.head.first(size)


def states_with_final_norm(student: Pass, teacher: Pass) -> tuple[Tensor, Tensor]:
    """Both readers' states [L, B, m, .], with those of the last block, if captured, after the final norm."""
    if student.final is None or teacher.final is None:
        return student.states, teacher.states
    return torch.cat([student.states[:-1], student.final[None]]), torch.cat([teacher.states[:-1], teacher.final[None]])


def run_pass(
    model: LanguageModel, reader: ReaderInput, batch: Batch, layers: Sequence[int], lens: int | None = None
) -> Pass:
    """One forward pass; the head is not applied, and only `layers` (1 is the first block) and `lens` are captured."""
    layout = _packed(reader) if lens is None and can_pack(model) else _padded(reader)
    rows, offsets = batch.tokens
    before = reader.prompt_lengths[rows] + offsets - 1  # the column that predicts each token
    every_row = torch.arange(len(batch.positions), device=rows.device)[:, None]
    selected = layout.at(every_row, reader.prompt_lengths[:, None] + batch.positions)  # [B, m]
    blocks = [model.blocks[layer - 1] for layer in layers]
    with (
        model.computing(),
        capture_states(blocks, selected) as stack,
        capture_logit_lens(model, lens) as lens_at,
    ):
        out = model.read(**layout.arguments)  # [B, T, d], or packed [1, all tokens, d]
    hidden = out[layout.at(rows, before)].to(model.compute or out.dtype)
    states = stack() if layers else out.new_zeros(0, *batch.positions.shape, out.shape[-1])
    last = bool(layers) and layers[-1] == len(model.blocks)
    final = out[selected].to(states.dtype) if last else None
    lens_states = lens_at(rows, before)
    stops = tuple(sorted(model.description.eos_ids))
    return Pass(hidden, model.head_after_pass(), states, final, lens_states, tuple(layers), len(model.blocks), stops)


@dataclass(frozen=True)
class _Layout:
    """The arguments of a model's forward, and where a column of a reader's padded row is in its output."""

    arguments: Mapping[str, Any]
    width: int  # T, of the reader's padded rows
    packed: Tensor | None  # [B, T], the column in the packed row of each padded column; None where rows are padded

    def at(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        columns = columns.clamp_max(self.width - 1)  # an unused slot of an empty completion lies beyond its sequence
        if self.packed is None:
            return rows, columns
        packed = self.packed[rows, columns]
        return torch.zeros_like(packed), packed


def _padded(reader: ReaderInput) -> _Layout:
    arguments = {"input_ids": reader.input_ids, "attention_mask": reader.attention_mask, "use_cache": False}
    return _Layout(arguments, reader.input_ids.shape[1], None)


def _packed(reader: ReaderInput) -> _Layout:
    row = pack(reader.sequences, reader.input_ids.device)
    return _Layout(row_arguments(row, CausalSequences(row)), reader.input_ids.shape[1], row.columns())


def padding(model: LanguageModel, batch: Batch, lens: int | None = None) -> tuple[Tensor, Tensor]:
    """The number of padded columns that all passes compute, and of all columns that they compute."""
    masks = [reader.attention_mask.flatten() for reader in (batch.student, batch.teacher, *batch.further) if reader]
    mask = torch.cat(masks)
    columns = mask.sum() if lens is None and can_pack(model) else torch.full((), mask.numel(), device=mask.device)
    return columns - mask.sum(), columns


def _select(samples: Sequence[Sample], lengths: Tensor, positions: int, where: Where) -> tuple[Tensor, Tensor]:
    """Selected positions [B, m] among each sample's aligned positions, and which of them are valid."""
    if all(sample.aligned_positions is None for sample in samples):
        return select_positions(lengths, positions, where)
    aligned_positions = [
        range(len(s.completion)) if s.aligned_positions is None else s.aligned_positions for s in samples
    ]
    counts = torch.tensor([len(row) for row in aligned_positions])
    selected, valid = select_positions(counts, positions, where)
    table = pad_sequence([torch.tensor([*row, 0]) for row in aligned_positions], batch_first=True)
    return table.gather(1, selected).where(valid, 0), valid


def _reader_input(
    prompts: Sequence[Sequence[int]], samples: Sequence[Sample], pad_id: int, device: torch.device
) -> ReaderInput:
    sequences = [[*p, *s.completion] for p, s in zip(prompts, samples, strict=True)]
    rows = list(map(torch.tensor, sequences))
    ids = pad_sequence(rows, batch_first=True, padding_value=pad_id)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    lengths = torch.tensor([len(p) for p in prompts])
    return ReaderInput(sequences, *(to_device(each, device) for each in (ids, mask, lengths)))
