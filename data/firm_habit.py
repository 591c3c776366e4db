"""The second base of studies/methods.yaml: `python data/firm_habit.py [FOLDER]`, some two minutes of one core.

The embedded model forgets a carry in nearly half of the places. A short pretraining on slips that forget it in three of
five makes the slip its firm belief: what the teacher corrects is then a likely entry that
becomes unlikely, which is what an element clip cuts off. What is in FOLDER already is not made again.
"""

from pathlib import Path

import torch
import typer
from arithmetic import Slips
from pretrain import Recipe, pretrain
from problem_sets import draw_sets, problem_texts
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

MODEL = Path(__file__).parent / "model"

HABIT = Slips(forgotten_carry=0.6)
RECIPE = Recipe(steps=200, learning_rate=5e-4, warmup=20)


def main(folder: Path = Path("runs/firm-habit")) -> None:
    """Write the model and its tokenizer to FOLDER."""
    if (folder / "config.json").exists():
        return
    torch.set_num_threads(1)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL)
    model = Qwen3ForCausalLM.from_pretrained(MODEL)
    pretrain(model, tokenizer, RECIPE, seed=7, held_out=problem_texts(draw_sets(0)), slips=HABIT)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


if __name__ == "__main__":
    typer.run(main)
