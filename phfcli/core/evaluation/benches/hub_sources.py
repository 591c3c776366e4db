"""The benchmarks of the hub: where each lies, which columns hold what, and how a row becomes a problem."""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from phfcli.core.grading.golds import GOLD_FORMS
from phfcli.core.seeds import derive_seed
from phfcli.core.storage.tables import Row

ReadChoices = Callable[[Row], "Choices"]


@dataclass(frozen=True)
class Choices:
    """A question with its options, of which one is right."""

    id: str
    question: str
    options: list[str]
    right: int


@dataclass(frozen=True)
class Source:
    """Where a benchmark lies on the hub, and which columns hold what.

    Attributes:
        revision: a commit of the hub's repository; None is its newest.
        gold: from the answer's column to the gold answer.
        choices: of a multiple choice, what reads a row; its columns are then those of `problem` and `answer`.
    """

    hub_id: str
    split: str
    problem: str = "problem"
    answer: str = "answer"
    id: str | None = None
    config: str | None = None
    revision: str | None = None
    gold: Callable[[str], str] = str.strip
    choices: ReadChoices | None = None


def as_problem(choices: Choices, seed: int) -> dict[str, Any]:
    """A row with problem and answer: lettered options in an order that seed and id decide, and the right letter."""
    order = np.random.default_rng(derive_seed(seed, "options", choices.id)).permutation(len(choices.options)).tolist()
    lines = [
        f"{letter}. {choices.options[place].strip()}"
        for letter, place in zip(string.ascii_uppercase, order, strict=False)
    ]
    problem = "\n".join([choices.question.strip(), "", *lines, "", "Answer with the letter of the right option."])
    return {"id": choices.id, "problem": problem, "answer": string.ascii_uppercase[order.index(choices.right)]}


def _gpqa(row: Row) -> Choices:
    options = [row["Correct Answer"], *(row[f"Incorrect Answer {number}"] for number in (1, 2, 3))]
    return Choices(_text(row, "Record ID"), _text(row, "Question"), [str(option) for option in options], 0)


def _mmlu_pro(row: Row) -> Choices:
    options = [str(option) for option in row["options"]]
    right = int(row["answer_index"])
    if not 0 <= right < len(options):
        raise ValueError(f"answer_index {right} of {len(options)} options")
    return Choices(_text(row, "question_id"), _text(row, "question"), options, right)


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if value is None or not str(value).strip():
        raise ValueError(f"{column!r} is empty")
    return str(value)


def _math_arena(name: str) -> Source:
    """MathArena's tables have one form; their newest revision is read, for they are mended from time to time."""
    return Source(f"MathArena/{name}", "train", id="problem_idx")


# the commits that others have evaluated on; where none is known, the newest one is taken and its rows' hash recorded
HUB = {
    "aime24": Source("HuggingFaceH4/aime_2024", "train", id="id", revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a"),
    "aime25": Source(
        "yentinglin/aime_2025", "train", id="problem_idx", revision="6f71d77b0b89b9dabe07ab466c51df33f514df7f"
    ),
    "hmmt25": _math_arena("hmmt_feb_2025"),
    **{
        name: _math_arena(name)
        for name in ("aime_2026", "hmmt_nov_2025", "hmmt_feb_2026", "brumo_2025", "smt_2025", "cmimc_2025")
    },
    "math500": Source(
        "HuggingFaceH4/MATH-500",
        "test",
        answer="solution",
        id="unique_id",
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
        gold=GOLD_FORMS["last-box"],  # the published script takes the last box of the solution as gold
    ),
    "amc23": Source(
        "math-ai/amc23", "test", problem="question", id="id", revision="80815d37005feb82cd7f8fbc6901d5d3eff43057"
    ),
    "minerva": Source(
        "math-ai/minervamath", "test", problem="question", revision="ee46ddc498933b1977577953250ca5c66be64f96"
    ),
    "gsm8k": Source(
        "openai/gsm8k",
        "test",
        problem="question",
        config="main",
        revision="cc7b047b6e5bb11b4f1af84efc572db110a51b3c",
        gold=GOLD_FORMS["after-hashes"],
    ),
    "gpqa_diamond": Source(
        "Idavidrein/gpqa", "train", "Question", "Correct Answer", "Record ID", "gpqa_diamond", choices=_gpqa
    ),
    "mmlu_pro": Source("TIGER-Lab/MMLU-Pro", "test", "question", "options", "question_id", choices=_mmlu_pro),
}

SUITES = {"paper": ("aime24", "aime25", "hmmt25")}
