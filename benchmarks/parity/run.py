"""GRPO, SFT and OPSD beside TRL's own trainers: `python benchmarks/parity/run.py --trl-python VENV/bin/python`.

The same base model, problems in the same order, prompts, steps, batch, learning rate and grader; each side samples with
its own random numbers. Both adapters are evaluated by `phf eval`. What is there is not made again, so the same command
goes on where it was stopped; the exit code is 1 if a difference over the seeds exceeds its standard error (which chance
alone does in one of three).

TRL is no dependency of phf. It needs an environment with both: a venv with `pip install -e . trl==1.16.0`.
"""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated

import typer
from rich.console import Console

from phfcli.core.storage.files import read_json, write_json

# what the two sides can both be told: a rate that does not fall, and for OPSD a divergence without a clip whose
# temperature is the rollouts'
_COMMON = ["--set", "optim.horizon_steps=1000000", "--set", "device=cpu", "--set", "flow.saved_samples=0"]
SYSTEMS = {
    "sft": ["--objective", "sft"],
    "grpo": ["--objective", "grpo"],
    "opsd": ["--objective", "opsd", "--set", "divergence.clip=null", "--set", "divergence.temperature=null"],
}
TRAINERS = {"sft": "SFTTrainer", "grpo": "GRPOTrainer", "opsd": "SDFTTrainer"}

out = Console(highlight=False, soft_wrap=True)


def main(
    trl_python: Annotated[Path, typer.Option(help="An interpreter that has both phf and TRL.")],
    seeds: Annotated[int, typer.Option(help="How many.")] = 4,
    steps: Annotated[int, typer.Option(help="Of each run.")] = 100,
    only: Annotated[str, typer.Option(help="Of sft, grpo, opsd.")] = "sft,grpo,opsd",
    folder: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/parity"),
    samples: Annotated[int, typer.Option(help="Of each problem, in the evaluation.")] = 12,
) -> None:
    """Train both sides, evaluate both, print both accuracies, their difference and its standard error."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # which ends the child as well
    systems = only.split(",")
    if unknown := set(systems) - set(SYSTEMS):
        out.print(f"--only {only}: choose of {', '.join(SYSTEMS)}, not {', '.join(sorted(unknown))}", markup=False)
        raise typer.Exit(2)
    pairs: dict[str, list[tuple[float, float]]] = {system: [] for system in systems}
    for seed in range(seeds):
        for system in systems:
            own = folder / f"{system}-phf-seed{seed}"
            theirs = folder / f"{system}-trl-seed{seed}"
            _train_own(system, own, steps, seed)
            _train_theirs(trl_python, system, own / "config.yaml", theirs)
            both = _average(own, own, seed, samples), _average(theirs / "adapter", theirs, seed, samples)
            pairs[system].append(both)
            out.print(f"{system} seed {seed}: phf {100 * both[0]:.1f}  TRL {100 * both[1]:.1f}")
        results = [_compare(system, pairs[system]) for system in systems]
        write_json(folder / "parity.json", results)
    _show(results)
    if any(row["stderr"] is not None and abs(row["difference"]) > row["stderr"] for row in results):
        raise typer.Exit(1)


def _train_own(system: str, run: Path, steps: int, seed: int) -> None:
    command = [sys.executable, "-m", "phfcli", "train", *SYSTEMS[system], *_COMMON, "--steps", str(steps)]
    _call([*command, "--seed", str(seed), "--engine", "transformers", "--resume", "--quiet", "--output-dir", str(run)])


def _train_theirs(python: Path, system: str, config: Path, folder: Path) -> None:
    """TRL writes its adapter at the very end, so a stopped run starts over."""
    if not (folder / "adapter" / "adapter_model.safetensors").is_file():
        _call([str(python), str(Path(__file__).with_name("with_trl.py")), system, str(config), str(folder / "adapter")])


def _average(target: Path, folder: Path, seed: int, samples: int) -> float:
    """Average@n by phf's evaluation, from the file it left if there is one."""
    name = f"embedded-n{samples}"
    file = folder / "evals" / name / "summary.json"
    if not file.is_file():
        base = [] if target == folder else ["--base", "embedded"]
        command = [sys.executable, "-m", "phfcli", "eval", str(target), *base, "--n", str(samples), "--seed", str(seed)]
        _call([*command, "--engine", "transformers", "--quiet", "--output-dir", str(folder)])
    return float(read_json(file)["average"])


def _compare(system: str, pairs: list[tuple[float, float]]) -> dict[str, object]:
    """Means over seeds, their difference, and its standard error from both sides' spread; None for one seed."""
    own, theirs = zip(*pairs, strict=True)
    error = math.hypot(stdev(own), stdev(theirs)) / math.sqrt(len(pairs)) if len(pairs) > 1 else None
    return {
        "system": system,
        "trainer": TRAINERS[system],
        "phf": own,
        "trl": theirs,
        "difference": fmean(own) - fmean(theirs),
        "stderr": error,
    }


def _show(results: list[dict[str, object]]) -> None:
    out.print(f"\n{'':6}{'seeds':>6}{'phf':>8}{'TRL':>8}{'difference':>12}{'stderr':>8}")
    for row in results:
        own, theirs, error = fmean(row["phf"]), fmean(row["trl"]), row["stderr"]
        shown = "" if error is None else f"{100 * error:.1f}"
        figures = f"{100 * own:>8.1f}{100 * theirs:>8.1f}{100 * row['difference']:>+12.1f}{shown:>8}"
        out.print(f"{row['system']:<6}{len(row['phf']):>6}{figures}  {row['trainer']}")


def _call(command: list[str]) -> None:
    """Runs it on one thread; what it says is shown only if it fails, and then ends the program."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        out.print(f"FAILED {json.dumps(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}", markup=False)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
