"""The problem sets of the study on a real model: `python data/real_problems.py [FOLDER]`.

They follow from the seeds below and the release of reasoning-gym. Of each family one stream of distinct problems is
drawn and cut into the sets, so that no problem is in two of them. The format stage has rows of its own: in some of them
the reference is part of the prompt, worded as the teacher's prompt is, since plain SFT never teaches to read one.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

import typer
from real_families import FAMILIES, HARDER, HELD_OUT, Worked

from phfcli.core.models.prompts import INSTRUCTION, TEACHER_TEMPLATE

SEED, HARDER_SEED, HELD_OUT_SEED = 1_000_000, 2_000_000, 3_000_000  # further apart than any stream is long
SIZES = {"train": 1000, "dev": 32, "eval": 64, "format": 800, "planned": 128}  # of each family
HARDER_SIZE = 32
HELD_OUT_SIZES = {"held-out": 64, "format": 400}
READING_SHARE = (2, 5)  # two format rows of five hold the reference in the prompt
FOLDER = Path("runs/real-model/problems")

Row = dict[str, str]


def main(
    folder: Annotated[Path, typer.Argument(help="Where the sets go.")] = FOLDER,
    card: Annotated[Path | None, typer.Option(help="Write the data card to this file as well.")] = None,
) -> None:
    """Write every set as a file of JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    sets = draw_sets()
    for name, rows in sets.items():
        (folder / f"{name}.jsonl").write_text(json_lines(rows), encoding="utf-8", newline="\n")
    if card is not None:
        card.parent.mkdir(parents=True, exist_ok=True)
        card.write_text(data_card(sets), encoding="utf-8", newline="\n")
    typer.echo(f"problems   {folder}", err=True)


def draw_sets() -> dict[str, list[Row]]:
    """Every set by its name, its families by turns."""
    usual = {family.name: cut(distinct(family.worked(SEED)), SIZES) for family in FAMILIES}
    seen = {worked.problem for parts in usual.values() for part in parts.values() for worked in part}
    harder = {family.name: cut(distinct(family.worked(HARDER_SEED), seen), {"": HARDER_SIZE})[""] for family in HARDER}
    held_out = {family.name: cut(distinct(family.worked(HELD_OUT_SEED)), HELD_OUT_SIZES) for family in HELD_OUT}
    sets = {
        name: by_turns(name, {f: parts[name] for f, parts in usual.items()})
        for name in ("train", "dev", "eval", "planned")
    }
    sets["harder"] = by_turns("harder", harder)
    sets["held-out"] = by_turns("held-out", {name: parts["held-out"] for name, parts in held_out.items()})
    formats = by_turns("format", {name: parts["format"] for name, parts in (usual | held_out).items()})
    readers, of = READING_SHARE
    sets["format"] = [privileged(row) if number % of < readers else row for number, row in enumerate(formats)]
    return sets | {f"{name}-privileged": [privileged(row) for row in sets[name]] for name in ("dev", "eval")}


def distinct(stream: Iterable[Worked], seen: Iterable[str] = ()) -> Iterator[Worked]:
    """The problems whose text has not come before."""
    texts = set(seen)
    for worked in stream:
        if worked.problem not in texts:
            texts.add(worked.problem)
            yield worked


def cut(stream: Iterator[Worked], sizes: Mapping[str, int]) -> dict[str, list[Worked]]:
    """The stream's next problems as sets of these sizes."""
    parts = {name: list(islice(stream, size)) for name, size in sizes.items()}
    assert all(len(parts[name]) == size for name, size in sizes.items()), "a family has too few problems"
    return parts


def by_turns(set_name: str, families: Mapping[str, Sequence[Worked]]) -> list[Row]:
    """One row of each family in turn, until each is used up: the first so many rows of a set hold them evenly."""
    rows = {family: named_rows(set_name, family, worked) for family, worked in families.items()}
    turns = range(max(map(len, rows.values())))
    return list(chain.from_iterable(part[turn : turn + 1] for turn in turns for part in rows.values()))


def named_rows(set_name: str, family: str, problems: Iterable[Worked]) -> list[Row]:
    return [
        {
            "id": f"{set_name}-{family}-{number:04d}",
            "family": family,
            "problem": worked.problem,
            "solution": worked.solution,
            "answer": worked.answer,
        }
        for number, worked in enumerate(problems, start=1)
    ]


def privileged(row: Row) -> Row:
    """The row with its reference in the problem: its plain prompt is the teacher's prompt of the row."""
    wording = TEACHER_TEMPLATE.removesuffix(f"\n\n{INSTRUCTION}")
    text = wording.replace("{problem}", row["problem"]).replace("{solution}", row["solution"])
    return row | {"id": f"{row['id']}-privileged", "problem": text}


def json_lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def data_card(sets: Mapping[str, Sequence[Row]]) -> str:
    """What the sets are, how many rows each has and which bytes; an example of each family."""
    lines = [CARD_HEAD.format(version=version("reasoning-gym"), seeds=f"{SEED}, {HARDER_SEED}, {HELD_OUT_SEED}")]
    lines += ["| file | rows | families | sha256 |", "|---|---|---|---|"]
    for name, rows in sets.items():
        digest = hashlib.sha256(json_lines(rows).encode()).hexdigest()
        families = ", ".join(dict.fromkeys(row["family"] for row in rows))
        lines.append(f"| {name}.jsonl | {len(rows):,} | {families} | `{digest}` |")
    for row in [*sets["dev"][: len(FAMILIES)], *sets["harder"][: len(HARDER)], sets["held-out"][0]]:
        text = row["solution"].replace("\n", "\n    ")
        lines.append(f"\n`{row['id']}`: {row['problem']}\n\n    {text}")
    return "\n".join(lines) + "\n"


CARD_HEAD = """# Problems of the study on a real model

Written by `python data/real_problems.py --card docs/study-real/DATA.md`.
The files go to `runs/real-model/problems/` and are not committed.

The problems come from reasoning-gym {version} (Apache-2.0). Its items are drawn from the seeds {seeds}.
The references are ours: one equation a line, then the boxed answer.
Every equation is computed or checked by our own code. Items that do not fit are left out:
sums that run below zero; word problems with fractions, with numbers above 200 (1,000 in the harder set),
or whose equations do not lead to the answer.

- *sums*: two or three numbers of two digits; harder: four.
- *words*: word problems of one to three equations; harder: three to five.
- *legs*: two kinds of animals, up to nine of each; harder: three or four. One has to know how many legs each has.
- *divisors*: the greatest common divisor of two numbers up to 60. It is held out:
  on-policy training never sees it, the format stage does. It shows forgetting.

No problem is in two sets, by its text. The word problems of all sets share their templates (24 of gsm_symbolic):
they differ in names and numbers only.
Of five rows of the format stage two hold the reference in the prompt, in the words of the teacher's prompt.
The sets `*-privileged` are the same problems in that form: `phf eval` on them measures the privileged reader.
"""


if __name__ == "__main__":
    typer.run(main)
