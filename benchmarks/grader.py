r"""The grader under attack and at work: `python benchmarks/grader.py [--count 2000] [--workers N] [--json]`.

First, `--count` hostile answers, the same for the same seed: texts written to hang, to crash, to fill the memory or to
be executed, against golds of five kinds. Then the throughput on ordinary answers, with one worker and with two. Then
the pairs of answer_pairs.tsv, or of --pairs FILE, judged by us and by math-verify: what is misread, by kind.
A FILE is a table with titles (.tsv, .csv) or a JSON object a line (.jsonl), with `gold`, `answer`, `right` (true/false,
1/0, right/wrong) and, if it has kinds, `kind`. `--count 0 --runs 0` judges the pairs alone.
The exit code is 1 if a hostile answer was executed, was graded correct or got no grade, or if the whole took longer
than count / workers x timeout and the starts of the first workers.
"""

import contextlib
import csv
import io
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from hostile_answers import Pair, hostile_pairs
from rich.console import Console
from rich.table import Table

from phfcli.core.grading import build_grader
from phfcli.grading import Grader, Status

PAIRS = Path(__file__).with_name("answer_pairs.tsv")

_YES = {"true", "1", "right", "yes", "correct"}
STARTS_S = 30.0  # the first workers import sympy, perhaps on a busy machine
SAMPLE_S = 0.02
ALONE = 3  # answers of the slowest family that are timed one by one
BENIGN = 100  # ordinary pairs in one run through math-verify
INTEGERS = 5_000
PATIENT_S = 60.0  # for ordinary answers, of which none may run out of time on a busy machine


@dataclass
class MemoryWatch:
    """Peak resident MiB of this process and of the largest of its children, sampled in a thread. 0 without /proc."""

    parent_mib: float = 0.0
    worker_mib: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.parent_mib = max(self.parent_mib, _peak_mib("self"))
            self.worker_mib = max([self.worker_mib, *map(_peak_mib, _children())])


def _children() -> list[str]:
    found: list[str] = []
    for listing in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += listing.read_text().split()
    return found


def _peak_mib(pid: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def attack(count: int, workers: int, timeout_s: float, seed: int) -> dict[str, Any]:
    """Grades the hostile answers, family by family, in an empty working directory. Returns the figures."""
    families = hostile_pairs(count, seed)
    memory, figures = MemoryWatch(), dict[str, Any]()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        memory.watching(),
        Grader(workers, timeout_s) as grader,
    ):
        start = time.monotonic()
        by_family = {name: _grade_family(grader, own) for name, own in families.items()}
        figures["wall_s"] = time.monotonic() - start
        figures["killed_workers"] = grader.lost_workers
        slowest = max(by_family, key=lambda name: by_family[name]["seconds"] / len(families[name]))
        figures |= {"slowest": slowest, "longest_s": _longest(grader, families[slowest])}
        figures["created_files"] = sorted(path.name for path in Path(folder).iterdir())
    figures |= {"parent_mib": memory.parent_mib, "worker_mib": memory.worker_mib, "families": by_family}
    figures |= {"count": count, "bound_s": count / workers * timeout_s + STARTS_S}
    return figures | {"pairs_per_s": count / figures["wall_s"]}


def _grade_family(grader: Grader, pairs: list[Pair]) -> dict[str, Any]:
    """Seconds, missing grades and the number of each status. Reorders the pairs: those that overran come first."""
    start = time.monotonic()
    grades = grader.grade(pairs)
    seconds = time.monotonic() - start
    overran = {pair for pair, grade in zip(pairs, grades, strict=False) if grade.status is Status.timeout}
    pairs.sort(key=lambda pair: pair not in overran)
    return {"seconds": seconds, "missing": len(pairs) - len(grades)} | Counter(str(grade.status) for grade in grades)


def _longest(grader: Grader, pairs: list[Pair]) -> float:
    """The longest of a few grades, each alone and with a worker that has started."""
    seconds = []
    for pair in pairs[:ALONE]:
        grader.grade([(r"\sqrt{2}", r"\boxed{2^{1/2}}")])
        start = time.monotonic()
        grader.grade([pair])
        seconds.append(time.monotonic() - start)
    return max(seconds)


def read_pairs(file: Path) -> list[dict[str, Any]]:
    """Rows with kind (the file's name where it has none), gold, answer and right."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    elif file.suffix == ".tsv":  # no quotation marks: a backslash and a quote are parts of an answer
        titles, *lines = (line.split("\t") for line in text.splitlines())
        rows = [dict(zip(titles, line, strict=True)) for line in lines]
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
    if missing := {"gold", "answer", "right"} - set(rows[0]):
        raise typer.BadParameter(f"{file}: no column {', '.join(sorted(missing))}", param_hint="--pairs")
    return [{"kind": file.stem, **row, "right": str(row["right"]).lower() in _YES} for row in rows]


def misread(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each kind of pairs the false negatives and false positives, ours and math-verify's on the last box."""
    pairs = [(str(row["gold"]), rf"so \boxed{{{row['answer']}}}") for row in rows]
    with Grader(2, PATIENT_S) as ours, build_grader("math", PATIENT_S, "last-box") as theirs:
        judged = {"ours": ours.grade(pairs), "math_verify": theirs.grade(pairs)}
    table: dict[str, dict[str, Any]] = {}
    for i, row in enumerate(rows):
        kind, verdict = row["kind"], "right" if row["right"] else "wrong"
        empty = {"kind": kind, "right": 0, "wrong": 0} | {f"{who}_{what}": 0 for who in judged for what in ("fn", "fp")}
        line = table.setdefault(kind, empty)
        line[verdict] += 1
        for who, grades in judged.items():
            accepted = grades[i].status is Status.correct
            line[f"{who}_fn"] += verdict == "right" and not accepted
            line[f"{who}_fp"] += verdict == "wrong" and accepted
    total = {key: sum(line[key] for line in table.values()) for key in next(iter(table.values())) if key != "kind"}
    return [*table.values(), {"kind": "all", **total}]


def failures(figures: dict[str, Any]) -> list[str]:
    """What must not happen, and has."""
    families = figures["families"].values()
    correct, missing = (sum(family.get(key, 0) for family in families) for key in ("correct", "missing"))
    found = [f"an answer was executed: it created {name}" for name in figures["created_files"]]
    found += [f"{correct} hostile answers were graded correct"] * (correct > 0)
    found += [f"{missing} answers got no grade"] * (missing != 0)
    late = figures["wall_s"] > figures["bound_s"]
    return found + [f"{figures['wall_s']:.0f} s is more than the bound of {figures['bound_s']:.0f} s"] * late


def benign_pairs(count: int, first: int) -> list[Pair]:
    """Right answers that only math-verify can judge; another `first` gives other texts, so that nothing is cached."""
    shapes = [
        (r"\sqrt{{{n}}}", "{n}^{{1/2}}"),
        (r"\frac{{{n}\pi}}{{7}}", r"\frac{{{n}}}{{7}}\pi"),
        ("x^2+{n}x", "x(x+{n})"),
        (r"(-\infty,{n}]", r"x \le {n}"),
        (r"\{{{n}, \sqrt{{2}}\}}", r"\{{\sqrt{{2}}, {n}\}}"),
    ]
    numbers = itertools.islice(zip(itertools.count(first), itertools.cycle(shapes), strict=False), count)
    return [(gold.format(n=n), rf"\boxed{{{answer.format(n=n)}}}") for n, (gold, answer) in numbers]


def throughput(pairs: int, runs: int) -> dict[str, float]:
    """Pairs per second, medians of the runs: integers, which need no worker; math-verify with 1 and with 2 workers."""
    rates: dict[str, list[float]] = {"integers": [], "workers_1": [], "workers_2": []}
    with Grader(1, timeout_s=PATIENT_S) as one, Grader(2, timeout_s=PATIENT_S) as two:
        for grader in (one, two):
            grader.grade(benign_pairs(10, 10**6))  # starts the workers
        for run in range(runs):
            integers = [(str(n), rf"\boxed{{{n}}}") for n in range(run * INTEGERS, (run + 1) * INTEGERS)]
            rates["integers"].append(_rate(one, integers))
            ordinary = benign_pairs(pairs, 10 + run * pairs)
            rates["workers_1"].append(_rate(one, ordinary))
            rates["workers_2"].append(_rate(two, ordinary))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return medians | {"ratio": medians["workers_2"] / medians["workers_1"]}


def _rate(grader: Grader, pairs: list[Pair]) -> float:
    start = time.monotonic()
    grades = grader.grade(pairs)
    seconds = time.monotonic() - start
    assert all(grade.status is Status.correct for grade in grades), grades
    return len(pairs) / seconds


def _print(figures: dict[str, Any], rates: dict[str, float], kinds: list[dict[str, Any]]) -> None:
    console = Console()
    if kinds:
        titles = ("right", "wrong", "ours: missed", "accepted", "math-verify: missed", "accepted")
        misread_table = Table("kind", *titles, title="answers as models write them: right ones missed, wrong accepted")
        for line in kinds:
            misread_table.add_row(*map(str, line.values()))
        console.print(misread_table)
    if not figures:
        return
    statuses = [s for s in Status if any(str(s) in family for family in figures["families"].values())]
    table = Table("family", "answers", "seconds", *(str(s) for s in statuses), title="hostile answers")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, family in figures["families"].items():
        counts = [family.get(str(s), 0) for s in statuses]
        table.add_row(name, str(sum(counts)), f"{family['seconds']:.1f}", *(str(count or "") for count in counts))
    console.print(table)
    for label, text in _lines(figures, rates):
        console.print(f"{label:<24}{text}", highlight=False)


def _lines(figures: dict[str, Any], rates: dict[str, float]) -> list[tuple[str, str]]:
    lines = [
        ("hostile answers", f"{figures['count']} in {figures['wall_s']:.1f} s (bound {figures['bound_s']:.0f} s)"),
        ("pairs per second", f"{figures['pairs_per_s']:.1f}"),
        ("longest grade", f"{figures['longest_s']:.2f} s, alone, of {figures['slowest']}"),
        ("peak memory", f"{figures['parent_mib']:.0f} MiB here, {figures['worker_mib']:.0f} MiB in a worker"),
        ("workers replaced", str(figures["killed_workers"])),
        ("files created", ", ".join(figures["created_files"]) or "none"),
    ]
    if not rates:
        return lines
    return [
        *lines,
        ("ordinary integers", f"{rates['integers']:.0f} pairs/s, no worker"),
        ("ordinary math-verify", f"{rates['workers_1']:.1f} pairs/s with 1 worker, {rates['workers_2']:.1f} with 2"),
        ("ratio", f"{rates['ratio']:.2f} on {os.cpu_count()} CPUs"),
    ]


def main(
    count: Annotated[int, typer.Option(min=0, help="Hostile answers; 0 for none.")] = 2000,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes for them.")] = 2,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one judgement.")] = 2.0,
    runs: Annotated[int, typer.Option(min=0, help="Runs of the throughput part, 0 for none; medians are printed.")] = 3,
    seed: Annotated[int, typer.Option(help="Another seed, other answers.")] = 0,
    pairs: Annotated[
        list[Path] | None,
        typer.Option(help="A file of golds and answers. Repeatable.", show_default=PAIRS.name),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Judge at most so many pairs, at even distances.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Grades hostile answers, measures the throughput on ordinary ones, and counts the answers that are misread."""
    figures = attack(count, workers, timeout_s, seed) if count else {}
    rates = throughput(min(count, BENIGN), runs) if runs and count else {}
    rows = [row for file in pairs or [PAIRS] for row in read_pairs(file)] if runs or pairs else []
    kinds = misread(rows[:: max(1, -(-len(rows) // (limit or len(rows))))]) if rows else []
    failed = failures(figures) if figures else []
    if as_json:
        typer.echo(json.dumps({**figures, "throughput": rates, "misread": kinds, "failures": failed}, indent=2))
    else:
        _print(figures, rates, kinds)
    for failure in failed:
        typer.echo(f"FAILED: {failure}", err=True)
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
