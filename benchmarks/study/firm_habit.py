"""The base of apart.yaml: `python benchmarks/study/firm_habit.py [FOLDER]`, some two minutes of one core.

The embedded model forgets a carry in a quarter of the places, and so mostly remembers it. A short pretraining on slips
that forget it in three of five makes the slip its firm belief: what the teacher corrects is then a likely entry that
becomes unlikely, which is what an element clip cuts off. What is in FOLDER already is not made again.
"""

import sys
from pathlib import Path

import torch
import typer
from transformers import AutoModelForCausalLM, AutoTokenizer

DATA = Path(__file__).parents[2] / "data"
sys.path.insert(0, str(DATA))

from arithmetic import Slips  # noqa: E402
from pretrain import Recipe, pretrain  # noqa: E402
from problem_sets import draw_sets, problem_texts  # noqa: E402

HABIT = Slips(forgotten_carry=0.6)
RECIPE = Recipe(steps=200, learning_rate=5e-4, warmup=20)


def main(folder: Path = Path("runs/firm-habit")) -> None:
    """Write the model and its tokenizer to FOLDER."""
    if (folder / "config.json").exists():
        return
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(DATA / "model")
    model = AutoModelForCausalLM.from_pretrained(DATA / "model")
    pretrain(model, tokenizer, RECIPE, seed=7, held_out=problem_texts(draw_sets(0)), slips=HABIT)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


if __name__ == "__main__":
    typer.run(main)
