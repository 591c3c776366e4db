"""Pages of samples for tests: what is written into one, and the page in a browser."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pages import Page
from selenium.webdriver.remote.webelement import WebElement

from phfcli.core.evaluation.samples_page import ShownRun, write_page
from phfcli.core.types import Problem

SUMMARY: dict[str, Any] = {
    "bench": "aime25",
    "target": "runs/phf",
    "step": 100,
    "n": 2,
    "average": 0.5,
    "stderr": 0.25,
    "pass_at_k": {"1": 0.5, "2": 0.75},
    "majority": 0.6,
    "truncated": 3,
    "no_answer": 1234,
    "grader_failures": 0,
    "mean_tokens": 9876.5,
}


ATTACKS = (
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    r"$\text{<img src=x onerror=window.hacked=1>}$",
    r"$\href{javascript:window.hacked=1}{x}$",
    '<a href="javascript:window.hacked=1">x</a>',
    "<!--<script>window.hacked=1",
    "{{data}}",
)


ATTACK = " ".join(ATTACKS)


def a_sample(problem: str = "p", number: int = 0, **changes: Any) -> dict[str, Any]:
    line = {"problem": problem, "sample": number, "status": "correct", "answer": "4", "tokens": 5, "seed": 2**62 + 1}
    return {**line, "text": "text", "seconds": 1.0, **changes}


PROBLEMS = [
    Problem("p/1", r"Evaluate $\frac{1}{2}+x^2$ and \[\sum_{k=1}^{n} k\]", answer=r"\frac{3}{4}"),
    Problem("p/10", ATTACK, answer=ATTACK),
    Problem("p/2", "A wide one: $" + "+".join(f"x_{{{i}}}" for i in range(80)) + "$" + "w" * 300, answer="7" * 300),
]


SAMPLES = [
    a_sample("p/1", 0, text="<think>\nfirst I ponder\n</think>\n\nIt is $4$."),
    a_sample("p/1", 1, status="wrong", answer="5", text="<think>" + "y" * 30_000 + "</think>five"),
    a_sample("p/1", 2, status="no_answer", answer=None, text="No idea, says the Walrus"),
    a_sample("p/10", 0, status="wrong", answer=ATTACK, text=f"<think>{ATTACK}</think>{ATTACK}"),
    a_sample("p/10", 1, status="timeout", answer=ATTACK[:40], text=ATTACK),
    a_sample("p/2", 0, status="truncated", answer=None, text="<think>" + "z" * 1_000),
    a_sample("p/2", 1, text="seven " * 400 + "s" * 500, answer="7" * 300),
]


PAIR_PROBLEMS = [Problem(f"p/{number}", f"Problem {number}: {ATTACK}", answer="4") for number in range(4)]
# solved by the first only, by the second only, by both, by neither
PAIR = {
    f"A {ATTACKS[0]}": ["correct correct", "wrong correct", "correct correct", "wrong truncated"],
    f"B {ATTACKS[2]}": ["wrong correct", "correct correct", "correct correct", "wrong wrong"],
}


def pair_runs() -> list[ShownRun]:
    """Two evaluations with two samples of each of PAIR_PROBLEMS."""
    return [
        ShownRun(
            name,
            {**SUMMARY, "target": name},
            [
                a_sample(f"p/{place}", number, status=status, text=f"{name[0]} writes {ATTACK} {place}{number}")
                for place, statuses in enumerate(rows)
                for number, status in enumerate(statuses.split())
            ],
        )
        for name, rows in PAIR.items()
    ]


def page(problems: list[Problem], samples: list[dict[str, Any]], summary: dict[str, Any] | None = None) -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "samples.html"
        write_page(path, SUMMARY if summary is None else summary, problems, samples)
        return path.read_text(encoding="utf-8")


def block(html: str, name: str) -> Any:
    """What the page's script reads under this name."""
    found = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)
    assert len(found) == 1
    assert not set("<>&\u2028\u2029") & set(found[0])
    return json.loads(found[0])


def drawn(**changes: Any) -> tuple[dict[str, Any], list[Any]]:
    """The one sample of a page, and the page's formulas."""
    html = page([Problem("p", "2+2?", answer="4")], [a_sample(**changes)])
    return block(html, "samples-0")[0], block(html, "formulas")


def source(parts: list[str | int], formulas: list[Any]) -> str:
    return "".join(part if isinstance(part, str) else formulas[part][0] for part in parts)


class SamplesPage(Page):
    def open_all(self) -> None:
        for opener in self.all(".samples:not([open]) > summary"):
            self.click(opener)
        self.wait(lambda: not self.script("return problems.some((p) => !p.drawn)"))

    def chip(self, status: str) -> WebElement:
        return self.one(f'.chips [data-status="{status}"]')
