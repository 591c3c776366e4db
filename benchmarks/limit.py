"""How near head and divergence come to their matrix products alone: `python benchmarks/limit.py`.

The products are those that cannot be left out: both logits and the gradient to the student's hidden states, in the same
chunks. Everything else of `fused_divergence`, softmax, divergence, clip and their gradient, is what is on top.
"""

import os
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from harness.tables import Table, spread
from torch import Tensor

from phfcli.core.losses.divergence import Kind
from phfcli.core.losses.fused_divergence import fused_divergence
from phfcli.core.models.device import keep_large_blocks

VOCABULARY = 151_936
CHUNK = 64
CASES = (
    (torch.float32, 512, "jsd"),
    (torch.float32, 512, "forward_kl"),
    (torch.float32, 1024, "jsd"),
    (torch.bfloat16, 1024, "jsd"),
)


def measure_limit(repeats: int, threads: int, tokens: int = 512) -> Table:
    """A row for each precision, width and divergence."""
    torch.set_num_threads(threads)
    keep_large_blocks()  # as a run on a CPU does
    rows = []
    for dtype, width, kind in CASES:
        inputs = _inputs(tokens, width, dtype)
        pairs = [(_seconds(_products, *inputs), _seconds(_whole, *inputs, kind)) for _ in range(1 + repeats)][1:]
        ratios = [both / alone for alone, both in pairs]
        alone, both = (statistics.median(column) for column in zip(*pairs, strict=True))
        name = str(dtype).removeprefix("torch.")
        rows.append([name, str(width), kind, f"{alone:.2f}", f"{both:.2f}", spread(ratios)])
    note = (
        f"{tokens} tokens, vocabulary {VOCABULARY:,}, clip 0.05, {threads} thread(s). Seconds as medians of {repeats} "
        "pairs measured in turn; the ratio as median (range) over the pairs."
    )
    return Table("Head and divergence over their matrix products", note, _COLUMNS, rows)


_COLUMNS = ["precision", "width", "divergence", "products, s", "head and divergence, s", "ratio"]


def _inputs(tokens: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [N, d] of student and teacher, and the head [V, d]."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(tokens, width, generator=generator)
    teacher = student + 0.3 * torch.randn(tokens, width, generator=generator)
    head = torch.randn(VOCABULARY, width, generator=generator) * 0.05
    return student.to(dtype), teacher.to(dtype), head.to(dtype)


def _products(student: Tensor, teacher: Tensor, head: Tensor) -> None:
    logits = student.new_empty(2 * CHUNK, len(head))
    for first in range(0, len(student), CHUNK):
        both = torch.cat((student[first : first + CHUNK], teacher[first : first + CHUNK]))
        torch.mm(both, head.T, out=logits[: len(both)])
        logits[: len(both) // 2] @ head


def _whole(student: Tensor, teacher: Tensor, head: Tensor, kind: Kind) -> None:
    hidden = student.clone().requires_grad_()
    weights = torch.ones(len(hidden))
    fused_divergence(hidden, teacher, head, weights, kind=kind, temperature=1.1, clip=0.05).backward()


def _seconds(run: Callable[..., None], *inputs: Any) -> float:
    started = time.perf_counter()
    run(*inputs)
    return time.perf_counter() - started


def main(
    repeats: Annotated[int, typer.Option(help="Measured pairs, after one to warm up.")] = 5,
    threads: int = int(os.environ.get("OMP_NUM_THREADS", "1")),
) -> None:
    """Measure head and divergence against their matrix products."""
    measure_limit(repeats, threads).show()


if __name__ == "__main__":
    typer.run(main)
