r"""The grader under attack and at work: `python benchmarks/grader.py [--count 2000] [--workers N] [--json]`.

First, `--count` hostile answers, the same for the same seed: texts written to hang, to crash, to fill the memory or to
be executed, against golds of five kinds. Then the throughput on ordinary answers, with one worker and with two.
The exit code is 1 if a hostile answer was executed, was graded correct or got no grade, or if the whole took longer
than count / workers x timeout and the starts of the first workers.
"""

import contextlib
import itertools
import json
import os
import random
import re
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from phfcli.grading import Grader, Status

Family = Callable[[random.Random], str]
Pair = tuple[str, str]

GOLDS = ("204", r"\frac{3}{7}", r"[0,\infty)", r"\{1,2\}", "x^2+1")
STARTS_S = 30.0  # the first workers import sympy, perhaps on a busy machine
SAMPLE_S = 0.02
ALONE = 3  # answers of the slowest family that are timed one by one
BENIGN = 100  # ordinary pairs in one run through math-verify
INTEGERS = 20_000


# One answer a line. <s>, <m> and <l> are numbers of two, five and at least seven digits, <call> is a payload.
SPELLINGS = {
    "towers": r"""
        <s>^{<s>^<s>}
        <s>^<s>^<s>
        <s>^{<s>^{<s>^{<s>}}}
        (<s>^{<s>})^{<s>^{<s>}}
        <s>^{<l>}
        <s>^{-<s>^{<s>}}
        2^{2^{2^{2^{2^<s>}}}}
        <s>e<l>""",
    "hidden towers": r"""
        <s>^{<m> \cdot <m>}
        (<s>^{<m>})^{<m>}
        <s>^{\frac{10^{9}}{<s>}}
        <s>^{<m>}
        <s>^{<s>!}
        2^{\binom{<m>}{50}}
        \exp(\exp(\exp(<s>)))
        e^{e^{e^{<s>}}}
        <s>^{<m>+<m>+x^{<m>}}
        \sqrt[<m>]{<s>}^{<m>}
        (<s>+\sqrt{2})^{<m>}
        <s>**<s>**<s>
        <s>^{\text{<l>}}
        (<s>^<s>)^{(<s>^<s>)^{<s>}}
        \left(<s>^{<m>}\right)^{<m>}""",
    "factorials": r"""
        (10^<s>)!
        (10^{<s>})!
        <l>!
        (<l>)!
        \left(<l>\right)!
        ((<s>!)!)!
        <s>!!!!
        (<l>+1)!
        (<l>\cdot 2)!
        \frac{<l>!}{<l>!}
        \Gamma(<l>)
        (<m>-1)!+<m>!
        \text{<l>}!
        \text{factorial}(<l>)
        4999!^{<s>}""",
    "combinatorics": r"""
        \binom{<l>}{<m>}
        \binom{10^9}{<m>}
        \binom{<l>}{<l>}
        \gcd(10^{<s>},<l>)
        <l>^{999} \bmod 7
        \operatorname{lcm}(10^{99},<l>)
        \lfloor <l>^{999}\pi \rfloor
        \zeta(<l>)
        F_{<l>}""",
    "series": r"""
        \sum_{n=1}^{<l>} n^n
        \sum_{n=1}^{<l>} n!
        \sum_{n=1}^{\infty} \frac{\sin n}{n^{<s>}}
        \sum_{n=1}^{<l>}\sum_{m=1}^{<l>} \frac{1}{n+m}
        \prod_{n=1}^{<l>} n
        \prod_{n=1}^{\infty} (1+\frac{1}{n^{<s>}})
        \lim_{n\to\infty} (1+\frac{1}{n})^{<s>n}
        \lim_{x\to 0} \sin(\frac{<s>}{x})
        \int_0^{<s>} x^x dx
        \int_0^{<l>} \sin(e^x) dx
        \int \frac{1}{x^{<s>}+1} dx
        \frac{d}{dx} x^{x^{x^{<s>}}}""",
    "polynomials": r"""
        (x+1)^{<m>}
        (x+y+z)^{<s>}
        x^{<m>}-1
        (x^{<m>}-1)(x^{<m>}+1)
        \frac{x^{<m>}-1}{x-1}
        \sin(<m>x)
        \cos^{<m>}(x)
        |x|^{<s>}+|y|""",
    "near values": r"""
        204+10^{-<s>}
        \frac{3}{7}+\frac{1}{<s>!}
        [10^{-<s>},\infty)
        \{1+2^{-<s>},2\}
        x^2+1+10^{-<s>}
        \sin(10^{<s>})
        204\cos(10^{-<s>})
        204.0000000000000000000000<s>
        203.9999999999999999999999<s>
        e^{\pi\sqrt{163}}-<s>^{9}
        \tan(\frac{\pi}{2}+10^{-<s>})""",
    "no values": r"""
        \frac{<s>}{0}
        0^0
        \infty-<s>\infty
        \log 0
        \tan\frac{\pi}{2}
        (-<s>)!
        i^{i^i}
        nan
        inf
        None
        True
        \int
        \sum
        \lim
        \frac{d}{dx}
        <s>:<s>:<s>
        <s> \pmod 0
        <s>_0
        \emptyset \cup
        \forall x
        \text{
        \%
        ,;:
        \log_1 <s>
        \begin{pmatrix}""",
    "python": r"""
        <call>
        eval("<call>")
        1+<call>
        \text{<call>}
        \mathrm{<call>}(3)
        \operatorname{<call>}(x)
        \frac{<call>}{2}
        S("<call>")
        sympify("<call>")
        parse_expr("<call>")
        np.<call>
        lambda: <call>
        <call>=5
        5=<call>
        f(<call>,<call>)
        \int <call> dx
        x_{<call>}
        \begin{pmatrix}<call>\end{pmatrix}
        Integer(5)+<call>
        \{<call>,1\}""",
    "shell and LaTeX": r"""
        `touch canary`<s>
        $(touch canary)<s>
        ; touch canary; <s>
        | touch canary | <s>
        \write18{touch canary}<s>
        \immediate\write18{touch canary}
        \input{|touch canary}
        \openout5=canary
        \directlua{os.execute('touch canary')}
        \def\x{\x\x}\x
        \newcommand{\x}{\x<s>}\x
        \catcode`\@=11
        <script>touch canary</script>
        \href{file:canary}{<s>}""",
}
CALLS = (
    "__import__('os').system('touch canary')",
    "open('canary','w')",
    'exec(chr(111)+\'pen("canary","w")\')',
    "().__class__.__base__.__subclasses__()[<s>]('canary','w')",
    "__import__('pathlib').Path('canary').touch()",
    "(lambda: open('canary', 'w'))()",
)
RANGES = {"s": (7, 99), "m": (10_000, 99_999), "l": (10**6, 10**12)}


def _fill(spelling: str, rng: random.Random) -> str:
    payload = spelling.replace("<call>", rng.choice(CALLS))
    return re.sub("<([sml])>", lambda match: str(rng.randint(*RANGES[match[1]])), payload)


def _spelled(block: str, rng: random.Random) -> str:
    return _boxed(_fill(rng.choice(block.split("\n")[1:]).strip(), rng))


def _boxed(content: str) -> str:
    return rf"<think>a try</think> The answer is \boxed{{{content}}}."


def nested(rng: random.Random) -> str:
    """Brackets, radicals and fractions: few levels, too many, and by the thousand."""
    opening, closing = rng.choice(
        [
            ("{", "}"), ("(", ")"), ("[", "]"), (r"\{", r"\}"), (r"\left(", r"\right)"), (r"\text{", "}"), ("x^{", "}"),
            (r"\sqrt{", "}"), (r"\sqrt{<s>+", "}"), (r"\sqrt[3]{x-", "}"), (r"\sqrt[<m>]{", "}"), (r"\frac", ""),
            (r"\frac{1}{<s>+", "}"), (r"\frac{x}{1+", "}"), (r"\frac{", "}{3}"), (r"\overline{", "}"), ("|", "|"),
        ]
    )  # fmt: skip
    depth = rng.choice([rng.randint(3, 19), rng.randint(20, 300), 20_000])
    return _boxed(_fill(opening, rng) * depth + str(rng.randint(205, 999)) + closing * depth)


def chains(rng: random.Random) -> str:
    units = ["+", "-", "1+", "x+", "1,", "5=", "!", "^", "_", "|x|", "x", "\\pm ", "=", "&", "x^2-", "2\\cdot ", "1/"]
    size = rng.choice([rng.randint(300, 1900), 100_000])
    return _boxed((rng.choice(units) * size)[:size] + "1")


def megabytes(rng: random.Random) -> str:
    unit = rng.choice(["A", "9", " ", "{}", "\\boxed{", "\\boxed ", "\\", "$", "\\frac", "{\\", "}", "x^", "9,"])
    text = unit * (1_000_000 // len(unit)) + str(rng.randint(0, 9))
    return _boxed(text) if rng.random() < 0.5 else text


def matrices(rng: random.Random) -> str:
    size, entry = rng.randint(2, 12), rng.choice(["x", "10^{9}", "\\frac{1}{x}", "9^{99}", "\\sqrt{2}"])
    rows = r" \\ ".join(" & ".join([f"{entry}+{rng.randint(0, 9)}"] * size) for _ in range(size))
    environment = rng.choice(["pmatrix", "vmatrix", "cases", "array"])
    power = rng.choice(["", "^{-1}", "^{9999}", "^{999999}"])
    return _boxed(rf"\begin{{{environment}}}{rows}\end{{{environment}}}{power}")


def long_lists(rng: random.Random) -> str:
    entry = rng.choice(["<m>", "x_{<s>}", "x+<s>", r"\frac{1}{<m>}", r"\pm <s>", r"\sqrt{<s>}"])
    items = _fill(", ".join([entry] * rng.randint(50, 400)), rng)
    brackets = [(r"\{", r"\}"), ("(", ")"), ("[", "]"), ("", ""), (r"\{x : x \in ", r"\}"), (r"(0,1) \cup \{", r"\}")]
    opening, closing = rng.choice(brackets)
    return _boxed(opening + items + closing)


def characters(rng: random.Random) -> str:
    odd = "\0\x1b\ud800\udcff\u202e\uff12\u0662\U0001d7d8\u0301\u00bd\u2164\u200b\r\n\t\x7f\ufffe\x85"
    odd += "\U0001f600\u2028\u0130\u00ad"
    text = rng.choices("356789", k=3) + rng.choices(odd, k=rng.choice([1, 3, 200]))
    rng.shuffle(text)
    return _boxed("".join(text))


def unmatched_boxes(rng: random.Random) -> str:
    n = rng.randint(2, 30_000)
    before, unit, after = rng.choice(
        [
            ("", "\\boxed{", ""), ("", "\\boxed{204", ""), ("\\boxed{204}\\boxed{", "{", ""), ("", "\\boxed{\\}", ""),
            ("\\boxed{204} \\boxed", "}", ""), ("", "\\boxed\\{204\\}", ""), ("", "\\boxed{}", ""),
            ("", "\\boxed ", ""), ("", "\\fbox{204}", ""), ("", "\\boxedx{204}", ""), ("", "204", ""),
            ("\\boxed{204", "\\}", ""), ("", "\\boxed{", "205" + "}" * n),
        ]
    )  # fmt: skip
    return before + unit * n + after


def delimiters(rng: random.Random) -> str:
    pieces = ["\\left(", "\\right)", "\\left\\{", "\\right.", "\\left|", "\\right|", "\\big[", "\\Bigg\\rangle"]
    pieces += ["\\middle|", "\\left", "\\right", "x", "1", ",", "\\langle", "\\lfloor", "\\rceil"]
    return _boxed(" ".join(rng.choices(pieces, k=rng.choice([5, 20, 60, 5000]))))


def tokens(rng: random.Random) -> str:
    pieces = [r"\frac{", r"\sqrt{", "}", "{", "(", ")", "^", "_", "9", "10", "!", r"\pm", "x", "i", "e", ",", "=", " "]
    pieces += [r"\left", r"\right", r"\{", r"\}", r"\text{", "%", r"\%", r"\infty", "\\", "&", r"\pi", ".", "|", "<"]
    return _boxed("".join(rng.choices(pieces, k=rng.randint(4, 60))))


FAMILIES: dict[str, Family] = {
    **{name: partial(_spelled, block) for name, block in SPELLINGS.items()},
    "nested": nested,
    "chains": chains,
    "megabytes": megabytes,
    "matrices": matrices,
    "long lists": long_lists,
    "characters": characters,
    "unmatched boxes": unmatched_boxes,
    "delimiters": delimiters,
    "random tokens": tokens,
}


def hostile_pairs(count: int, seed: int) -> dict[str, list[Pair]]:
    """(gold, completion) pairs by family: `count` in all, the families and the golds in turn."""
    rng = random.Random(seed)
    pairs: dict[str, list[Pair]] = {name: [] for name in FAMILIES}
    for name in itertools.islice(itertools.cycle(FAMILIES), count):
        pairs[name].append((GOLDS[len(pairs[name]) % len(GOLDS)], FAMILIES[name](rng)))
    return {name: own for name, own in pairs.items() if own}


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
    with Grader(1) as one, Grader(2) as two:
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


def _print(figures: dict[str, Any], rates: dict[str, float]) -> None:
    console = Console()
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
    count: Annotated[int, typer.Option(min=1, help="Hostile answers.")] = 2000,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes for them.")] = 2,
    timeout_s: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one judgement.")] = 2.0,
    runs: Annotated[int, typer.Option(min=0, help="Runs of the throughput part, 0 for none; medians are printed.")] = 3,
    seed: Annotated[int, typer.Option(help="Another seed, other answers.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Grades hostile answers, then measures the throughput on ordinary ones."""
    figures = attack(count, workers, timeout_s, seed)
    rates = throughput(min(count, BENIGN), runs) if runs else {}
    failed = failures(figures)
    if as_json:
        typer.echo(json.dumps({**figures, "throughput": rates, "failures": failed}, indent=2))
    else:
        _print(figures, rates)
    for failure in failed:
        typer.echo(f"FAILED: {failure}", err=True)
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
