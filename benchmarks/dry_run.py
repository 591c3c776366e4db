"""The memory that `phf train --dry-run` predicts beside the memory a run takes: `python benchmarks/dry_run.py`.

Both are of the whole process. `--large` adds a Qwen3 of 0.6 billion parameters, which takes minutes on a CPU.
"""

import os
from dataclasses import dataclass
from typing import Annotated

import typer
from harness.dry_runs import STEPS, compare_peaks
from harness.models import make_model
from harness.processes import scratch
from harness.tables import Table, mebibytes


@dataclass(frozen=True)
class Case:
    """A model's shape and a step's."""

    name: str
    layers: int
    width: int
    tokens: int
    dtype: str = "float32"
    settings: tuple[str, ...] = ()


SMALL = (
    Case("OPSD", 8, 512, 128, settings=("objective=opsd",)),
    Case("PHF", 8, 512, 128),
    Case("PHF, gradient checkpointing", 8, 512, 128, settings=("gradient_checkpointing=true",)),
    Case("PHF, bfloat16", 8, 512, 128, "bfloat16"),
    Case("PHF, all weights", 4, 256, 128, settings=("tuning=full",)),
    Case("GRPO", 8, 512, 128, settings=("objective=grpo", "rollout.top_p=1", "rollout.top_k=0", "grpo.group_size=2")),
)
LARGE = Case("PHF, 0.6 billion parameters", 28, 1024, 512, "bfloat16")


def measure_predictions(threads: int, large: bool) -> Table:
    """A row for each case."""
    rows = []
    with scratch() as folder:
        for case in (*SMALL, *([LARGE] if large else [])):
            shape = f"{case.layers}-{case.width}-{case.dtype}"
            if not (folder / shape).exists():
                make_model(folder / shape, layers=case.layers, width=case.width, dtype=case.dtype)
            settings = (f"dtype={case.dtype}", f"rollout.max_new_tokens={case.tokens}", *case.settings)
            peaks = compare_peaks(folder / shape, folder / case.name.replace(" ", "-"), settings, threads)
            error = f"{peaks.predicted / peaks.measured - 1:+.1%}"
            columns = [f"{case.layers} x {case.width}", case.dtype, str(case.tokens)]
            both = [mebibytes(peaks.predicted), mebibytes(peaks.measured)]
            rows.append([case.name, *columns, *both, error, peaks.phase])
    columns = ["objective", "layers x width", "precision", "tokens", "predicted", "measured", "error", "peak in"]
    note = f"Peaks of whole processes over {STEPS} steps of `phf train`, 2 rollouts a step, vocabulary 151,936."
    return Table("Memory: the dry run beside the run", note, columns, rows)


def main(
    large: Annotated[bool, typer.Option("--large", help="A model of 0.6 billion parameters as well.")] = False,
    threads: int = int(os.environ.get("OMP_NUM_THREADS", "1")),
) -> None:
    """Compare the predicted peak of a training step with the measured one."""
    measure_predictions(threads, large).show()


if __name__ == "__main__":
    typer.run(main)
