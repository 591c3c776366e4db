"""Which samples are computed together: as many as the settings and memory allow."""

from collections.abc import Sequence
from typing import Any

import torch

from phfcli.core.models.description import text_config
from phfcli.core.models.passes import Sample

_ACTIVATION_BYTES = 2**31  # on a CPU: more would share little more of what samples begin with
PADDING = 0.02  # of a micro-batch, at the most, where a model cannot be packed
_WIDTHS, _INNER_WIDTHS = 16, 5  # what autograd keeps of a token and block: tensors of the model's and the MLP's width


def micro_batches(
    samples: Sequence[Sample], size: int, tokens: int | None, packed: bool = False, padding: float = 1.0
) -> list[list[Sample]]:
    """At most `size` samples each, and of more than one at most `tokens` of the student's; the longest come first.

    Within a micro-batch they keep their order.

    Args:
        packed: nothing is padded, so neighbours need not be of like length: those of one problem stay together, and
            the prompt that they share is computed, and counted, once.
        padding: where samples are padded to the longest, the largest share of a micro-batch that may be padding.
    """
    longest: dict[tuple[int, ...], int] = {}
    prompts = [tuple(sample.student_prompt) for sample in samples]
    for prompt, sample in zip(prompts, samples, strict=True):
        longest[prompt] = max(longest.get(prompt, 0), sample.columns)

    def rank(index: int) -> tuple[Any, ...]:
        own = samples[index].columns
        return (longest[prompts[index]], prompts[index], own) if packed else (own,)

    parts: list[list[int]] = []
    held = 0
    for index in sorted(range(len(samples)), key=rank, reverse=True):
        shared = packed and bool(parts) and prompts[parts[-1][-1]] == prompts[index]
        count = len(samples[index].completion) + (0 if shared else len(prompts[index]))
        full = not parts or len(parts[-1]) == size or (tokens is not None and held + count > tokens)
        if full or not (packed or _padding([samples[one] for one in (*parts[-1], index)]) <= padding):
            parts.append([])
            held, count = 0, len(prompts[index]) + len(samples[index].completion)
        parts[-1].append(index)
        held += count
    return [[samples[index] for index in sorted(part)] for part in parts]


def split_up(parts: Sequence[list[Sample]], count: int) -> list[list[Sample]]:
    """As many micro-batches as `count`, at least: the largest are halved until there are. None is left empty.

    Raises:
        ValueError: where there are fewer samples than micro-batches.
    """
    parts = list(parts)
    while len(parts) < count:
        largest = max(range(len(parts)), key=lambda index: len(parts[index]))
        part = parts[largest]
        if len(part) == 1:
            raise ValueError(f"{len(parts)} samples cannot be split into {count} micro-batches")
        parts[largest : largest + 1] = [part[: len(part) // 2], part[len(part) // 2 :]]
    return parts


def _padding(samples: Sequence[Sample]) -> float:
    """The share of the columns of these samples, padded for each reader, that hold nothing."""
    students = [len(s.student_prompt) + len(s.completion) for s in samples]
    teachers = [len(s.teacher_prompt) + len(s.completion) for s in samples if s.teacher_prompt is not None]
    columns = sum(max(lengths) * len(lengths) for lengths in (students, teachers) if lengths)
    return 1 - (sum(students) + sum(teachers)) / columns


def tokens_at_once(config: Any, itemsize: int, device: torch.device, sharded: bool) -> int | None:
    """How many tokens the student reads at once on a CPU; None where the settings alone decide.

    They do on a GPU, which has use for large products, and with sharded blocks, since all ranks make as many passes.

    Args:
        config: the model's architecture.
        itemsize: bytes of a number.
    """
    if device.type != "cpu" or sharded:
        return None
    text = text_config(config)
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    one = text.num_hidden_layers * (_WIDTHS * text.hidden_size + _INNER_WIDTHS * inner) * itemsize
    return max(1, int(_ACTIVATION_BYTES // one))
