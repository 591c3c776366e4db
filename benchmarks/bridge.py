"""OPRD-Bridge on two models made here: `python benchmarks/bridge.py FOLDER [--seeds 3] [--ranks 4,16]`.

The student has the embedded model's tokenizer, a width of 96 and 3 blocks, and learnt from solutions that forget most
carries: a belief, which a teacher can mend, rather than carelessness. The teacher reads solutions character by
character, has a width of 128, and learnt from right ones. Nothing of their outputs can be compared. A bridge of each
rank is fitted between them, and the student is trained through it, with several seeds. Shown are the accuracy on unseen
problems and, over a run's first and last steps, the cosine of the bridged states on its rollouts.

What is in FOLDER already is not made again; it may be stopped at any time.
"""

import json
import statistics
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(DATA))

from arithmetic import Slips  # noqa: E402
from build_tokenizer import build_tokenizer  # noqa: E402
from pretrain import Recipe, new_model, pretrain  # noqa: E402
from problem_sets import as_problems, draw_sets, json_lines, problem_texts  # noqa: E402

MAX_LENGTH = 512
SPAN = 5  # steps at either end over which a run's cosine is averaged
RATE = 3e-4  # falling to zero over a run
JOBS = 2  # training runs side by side

out = Console(highlight=False, soft_wrap=True)


class Making(NamedTuple):
    """How a model is made."""

    by_character: bool
    slips: Slips | None
    width: int
    depth: int
    recipe: Recipe


MODELS = {
    "student": Making(False, Slips(forgotten_carry=0.75), 96, 3, Recipe(steps=1200, plain=64, privileged=0)),
    "teacher": Making(True, None, 128, 3, Recipe(steps=1900, plain=32, privileged=0)),
}


def main(
    folder: Annotated[Path, typer.Argument(help="For models, bridges and runs.")],
    seeds: Annotated[int, typer.Option(help="Training runs of each bridge.")] = 3,
    steps: Annotated[int, typer.Option(help="Of a training run.")] = 500,
    ranks: Annotated[str, typer.Option(help="Of the bridges, separated by commas.")] = "4,16",
    rollouts: Annotated[int, typer.Option(help="That a bridge is fitted on.")] = 256,
    problems: Annotated[int, typer.Option(help="Unseen ones, to evaluate on.")] = 128,
    pretraining: Annotated[float, typer.Option(help="Share of the pretraining that is done.")] = 1.0,
) -> None:
    """Train a student through a bridge to a teacher of another width and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    sets = draw_sets(0)
    for name in ("train", "eval"):
        (folder / f"{name}.jsonl").write_text(json_lines(as_problems(name, sets[name])))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(make, MODELS, [folder] * 2, [pretraining] * 2))
    before = {
        name: _evaluate(folder, folder / name, problems, "--output-dir", str(folder / f"base-{name}"))
        for name in MODELS
    }
    for name, score in before.items():
        out.print(f"{name:<10} {_score(score)}")
    for rank in map(int, ranks.split(",")):
        fitted = _fit(folder, rank, rollouts)
        row = next(row for row in fitted["by_rank"] if row["rank"] == rank)
        out.print(
            f"rank {rank:<5} cosine {row['before']:+.3f} before the fit, {row['after']:+.3f} after it, "
            f"on {fitted['held_out']} held-out pairs; {100 * row['explained']:.1f} % of the teacher's variance"
        )
        with ThreadPoolExecutor(JOBS) as pool:
            runs = list(pool.map(lambda seed, rank=rank: _train(folder, rank, seed, steps, problems), range(seeds)))
        _show(runs, before["student"]["average"])


def make(name: str, folder: Path, share: float) -> None:
    """Pretrains one of the two models, unless it is there."""
    if (folder / name / "config.json").exists():
        return
    torch.set_num_threads(1)
    how, held_out = MODELS[name], problem_texts(draw_sets(0))
    tokenizer = build_tokenizer(MAX_LENGTH, how.by_character)
    torch.manual_seed(0)
    model = new_model(tokenizer, MAX_LENGTH, how.width, how.depth)
    steps = max(1, round(share * how.recipe.steps))
    recipe = Recipe(steps, how.recipe.plain, 0, warmup=min(how.recipe.warmup, steps - 1))
    pretrain(model, tokenizer, recipe, seed=0, held_out=held_out, slips=how.slips)
    tokenizer.save_pretrained(folder / name)
    model.save_pretrained(folder / name)


class Run(NamedTuple):
    """A training run: the cosine of the bridged states at its start and its end, and its score."""

    first: float
    last: float
    score: dict[str, Any]


def _train(folder: Path, rank: int, seed: int, steps: int, problems: int) -> Run:
    run = folder / f"rank{rank}-seed{seed}"
    options = ["--config", "embedded", "--objective", "oprd", "--model", str(folder / "student"), "--seed", str(seed)]
    options += ["--teacher", "external", "--data", str(folder / "train.jsonl"), "--steps", str(steps)]
    settings = {
        "teacher.model": folder / "teacher",
        "oprd.bridge": _file(folder, rank),
        "optim.lr": RATE,
        "optim.horizon_steps": steps,
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    _phf("train", *options, *sets, "--output-dir", str(run), "--resume")
    lines = [json.loads(line)["state_cosine"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    return Run(statistics.mean(lines[:SPAN]), statistics.mean(lines[-SPAN:]), _evaluate(folder, run, problems))


def _show(runs: list[Run], base: float) -> None:
    for seed, run in enumerate(runs):
        out.print(f"  seed {seed}   {_score(run.score)}   cosine {run.first:.3f} to {run.last:.3f}")
    gains = [100 * (run.score["average"] - base) for run in runs]
    error = f" ± {statistics.stdev(gains) / len(gains) ** 0.5:.1f} over seeds" if len(gains) > 1 else ""
    out.print(f"  gain     {statistics.mean(gains):+.1f} points{error}")


def _fit(folder: Path, rank: int, rollouts: int) -> dict[str, Any]:
    """What `phf bridge fit --json` said of the bridge."""
    said = folder / f"bridge-{rank}.json"
    if not said.exists():
        options = ["--config", "embedded", "--model", str(folder / "student"), "--data", str(folder / "train.jsonl")]
        file = _file(folder, rank)
        file.unlink(missing_ok=True)
        options += ["--teacher", str(folder / "teacher"), "--rank", str(rank), "--rollouts", str(rollouts)]
        report = _phf("bridge", "fit", *options, "-o", str(file), "--plot", str(file.with_suffix(".png")))
        said.write_text(json.dumps(report))
    fitted: dict[str, Any] = json.loads(said.read_text())
    return fitted


def _file(folder: Path, rank: int) -> Path:
    return folder / f"bridge-{rank}.safetensors"


def _evaluate(folder: Path, target: Path, problems: int, *options: str) -> dict[str, Any]:
    """The summary of the target's evaluation on the unseen problems."""
    options = ("--limit", str(problems), "--engine", "transformers", "--max-new-tokens", "128", *options)
    said = _phf("eval", str(target), "--bench", str(folder / "eval.jsonl"), *options)
    summary: dict[str, Any] = said["benches"][0]
    return summary


def _score(summary: dict[str, Any]) -> str:
    passed = summary["pass_at_k"]["12"]
    return f"Average@12 {100 * summary['average']:.1f} ± {100 * summary['stderr']:.1f}   pass@12 {100 * passed:.1f}"


def _phf(*arguments: str) -> Any:
    """The JSON of a command of its own process."""
    command = [sys.executable, "-m", "phfcli", *arguments, "--json", "--quiet"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)
    return json.loads(done.stdout)


if __name__ == "__main__":
    typer.run(main)
