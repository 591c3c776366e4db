"""What the programs here share: a model of a given shape, rollouts to learn from, and the cost of an update.

Each contender runs in a process of its own (`contenders/`), reads its task as JSON and prints its figures as JSON. Time
is the wall clock of an update, rollouts excluded; memory is the most that the process held during its updates, above
what it held when the model was ready.
"""

import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from phfcli.core.training.metrics import peak_memory

FOLDER = Path(__file__).parent
Rollout = dict[str, list[int]]  # student_prompt, teacher_prompt, completion


def make_model(
    folder: Path, layers: int = 8, width: int = 512, vocabulary: int = 151_936, dtype: str = "float32"
) -> Path:
    """A Qwen3 of that shape with random weights, as a folder that any program can load."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from phfcli.core.models.description import load_tokenizer

    tokenizer = load_tokenizer("embedded")
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 128),
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_rollouts(count: int, student: int, teacher: int, completion: int, vocabulary: int) -> list[Rollout]:
    """Random token ids in sequences of those lengths; a `completion` of each sample is as long as the others'."""
    generator = torch.Generator().manual_seed(0)

    def tokens(length: int) -> list[int]:
        return torch.randint(10, vocabulary, (length,), generator=generator).tolist()

    lengths = {"student_prompt": student, "teacher_prompt": teacher, "completion": completion}
    return [{name: tokens(length) for name, length in lengths.items()} for _ in range(count)]


def measure(update: Callable[[], float], model: torch.nn.Module, repeats: int) -> dict[str, Any]:
    """Runs an update 1 + `repeats` times, the first to warm up; it returns its loss."""
    device = next(model.parameters()).device.type
    held = reset_peak(model)
    losses, seconds = [], []
    for _ in range(1 + repeats):
        started = time.perf_counter()
        losses.append(update())  # a float: the device has finished
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds[1:], "memory_bytes": peak(device) - held, "losses": losses}


def reset_peak(model: torch.nn.Module) -> int:
    """Forgets the peak so far; returns the bytes held now, all weights of the model among them."""
    for p in model.parameters():
        p.detach().sum()  # weights that are mapped from a file are only held once they have been read
    if p.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # freed memory must not hide what is taken afterwards
    Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def peak(device: str) -> int:
    """The most bytes held since the reset: of tensors on a GPU, of the whole process on a CPU."""
    return peak_memory(torch.device(device))


def run_contender(name: str, task: dict[str, Any], python: str = sys.executable) -> dict[str, Any]:
    """The figures of one contender. Raises RuntimeError with the end of its output if it fails."""
    paths = os.pathsep.join(map(str, (FOLDER, FOLDER.parent, os.environ.get("PYTHONPATH", ""))))
    command = [python, str(FOLDER / "contenders" / f"{name}.py")]
    environment = os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, input=json.dumps(task), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def read_task() -> dict[str, Any]:
    """What a contender is asked to do."""
    task: dict[str, Any] = json.load(sys.stdin)
    torch.set_num_threads(task["threads"])
    return task


@dataclass(frozen=True)
class Table:
    """What a program has found: a title, a sentence or two, and rows of text."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def show(self) -> None:
        """On the terminal."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        table = RichTable(*self.columns, title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for row in self.rows:
            table.add_row(*row)
        out = Console(highlight=False, markup=False)
        out.print(table)
        out.print(self.note)

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"## {self.title}\n\n{self.note}\n\n{table}\n"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for models and runs, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="phf-bench-") as folder:
        yield Path(folder)


def run_phf(arguments: Sequence[str], threads: int) -> str:
    """What `phf ARGUMENTS` prints. Raises RuntimeError with the end of its output if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "phfcli", *arguments]
    done = subprocess.run(command, cwd=FOLDER.parent, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"phf {' '.join(arguments)}: {done.stderr[-2000:]}")
    return done.stdout


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The steps of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def spread(values: Sequence[float], unit: str = "") -> str:
    """The median and the range of some figures."""
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


def mebibytes(size: float) -> str:
    return f"{size / 2**20:,.0f} MiB"
