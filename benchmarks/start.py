"""The CPU seconds from the start of `phf train` on the embedded model to its first step, and whose they are.

    python benchmarks/start.py [--repeats 3]

Each time is user and system time of a process of its own. "libraries" is a program that imports torch, PEFT and the
model's code and does nothing else: what no program that trains with them can go below. The other lines are the rest
of the start, in the order of time. At the end: the time of other commands that need no model.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness.commands import command_cost

_LIBRARIES = """
import time
import torch; print("torch", time.process_time())
import transformers.models.qwen3.modeling_qwen3; print("transformers", time.process_time())
import phfcli.core.models; print("PEFT", time.process_time())
"""

_START = """
import sys, time
def mark(name): print(name, time.process_time(), flush=True)
import phfcli.core.models; import transformers.models.qwen3.modeling_qwen3; mark("libraries")
from phfcli.core.settings import Source
from phfcli.core.training.start import running; mark("own modules")
with running([Source("start", {"output_dir": sys.argv[1], "steps": 2})], False, False, print, lambda line: None) as run:
    mark("settings, model, data, checks")
    loaded = set(sys.modules)
    for _ in run.steps():
        mark("step")
        print("modules", len(set(sys.modules) - loaded), *sorted(set(sys.modules) - loaded)[:5])
        loaded = set(sys.modules)
"""


def marks(program: str, *words: str) -> list[tuple[str, float]]:
    """The names and the CPU seconds that a program prints."""
    command = [sys.executable, "-W", "ignore", "-c", program, *words]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = []
    for line in lines:
        name, _, value = line.rpartition(" ")
        if line.startswith("modules"):
            print(f"  a step's new {line}")
        elif value.replace(".", "").isdigit():
            found.append((name, float(value)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        for title, program in (("the libraries alone", _LIBRARIES), ("phf train", _START)):
            print(title)
            runs = [marks(program, str(Path(folder) / str(n))) for n in range(repeats)]
            before = 0.0
            for at in zip(*runs, strict=True):
                now = statistics.median(seconds for _, seconds in at)
                print(f"  {at[0][0]:32s} {now - before:6.2f} s, {now:6.2f} s in all")
                before = now
        run = str(Path(folder) / "0")
        for words in (["--help"], ["runs", folder], ["diagnose", run], ["verify", run], ["train", "--help"]):
            taken = statistics.median(command_cost(words, Path(folder, "log"))[0] for _ in range(repeats))
            print(f"phf {' '.join(words).replace(folder, 'FOLDER'):32s} {taken:6.2f} s")


if __name__ == "__main__":
    main()
