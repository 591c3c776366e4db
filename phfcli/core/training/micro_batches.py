"""Which samples are computed together: of like length, as many as the settings and memory allow."""

from collections.abc import Sequence
from typing import Any

import torch

from phfcli.core.models.architecture.sizes import text_config
from phfcli.core.models.passes import Sample

_ACTIVATION_BYTES = 2**31  # on a CPU: more would share little more of what samples begin with
_WIDTHS, _INNER_WIDTHS = 16, 5  # what autograd keeps of a token and block: tensors of the model's and the MLP's width


def micro_batches(samples: Sequence[Sample], size: int, tokens: int | None) -> list[list[Sample]]:
    """At most `size` samples each, and of more than one at most `tokens` of the student's; the longest come first.

    Within a micro-batch they keep their order.
    """
    order = sorted(range(len(samples)), key=lambda index: samples[index].columns, reverse=True)
    parts: list[list[int]] = []
    held = 0
    for index in order:
        count = len(samples[index].student_prompt) + len(samples[index].completion)
        if not parts or len(parts[-1]) == size or (tokens is not None and held + count > tokens):
            parts.append([])
            held = 0
        parts[-1].append(index)
        held += count
    return [[samples[index] for index in sorted(part)] for part in parts]


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
