"""The page that shows the samples of one evaluation, or of two side by side: one file that asks no network."""

import json
import re
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from phfcli.core.evaluation.formulas import Formulas
from phfcli.core.grading.latex import split_thinking
from phfcli.core.storage.files import write_text
from phfcli.core.types import Problem


def page_policy(page: str) -> str:
    """Allows the page's own style and script, by their hashes, and nothing else; no string becomes markup."""
    allowed = {}
    for name in ("style", "script"):
        content = page.partition(f"<{name}>")[2].partition(f"</{name}>")[0]
        allowed[name] = b64encode(sha256(content.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{allowed['style']}'; script-src 'sha256-{allowed['script']}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def common_style() -> str:
    """The colours, type and controls of both pages, as CSS."""
    return (_FOLDER / "common.css").read_text(encoding="utf-8")


_FOLDER = Path(__file__).parent / "page"

_LONGEST_END = 10_000  # characters shown of each end of a long text
_SHORTEST_END = 1_000
_ALL_ENDS = 30_000_000  # characters: the ends are shorter where a page of many samples would exceed this


@dataclass(frozen=True)
class ShownRun:
    """One evaluation on a page.

    Attributes:
        summary: as in summary.json; a figure that it lacks is shown as –, one without a place of its own only as JSON.
        samples: lines of samples.jsonl, in any order; those of no problem of the page are left out.
    """

    name: str
    summary: dict[str, Any]
    samples: Sequence[dict[str, Any]]


def write_page(
    path: Path,
    summary: dict[str, Any],
    problems: Sequence[Problem],
    samples: Sequence[dict[str, Any]],
    prompt: str = "",
) -> None:
    """Writes the page of one evaluation.

    prompt: what the model reads of the first problem, if that is known.
    """
    run = ShownRun(_target(summary), summary, samples)
    slots = {
        "layout": "one",
        "title": _escape(f"samples of {run.name}"),
        "runs": _about(run, _prompt(prompt)),
        "kept": "samples.jsonl beside this page",
    }
    write_text(path, _page([run], problems, slots))


def write_pair_page(
    path: Path, first: ShownRun, second: ShownRun, problems: Sequence[Problem], difference: str = ""
) -> None:
    """Writes the page on which two evaluations of one benchmark stand beside each other.

    difference: of their averages, as a sentence, if it is known.
    """
    told = f'<p class="difference">{_escape(difference)}</p>\n' if difference else ""
    slots = {
        "layout": "two",
        "title": _escape(f"samples of {first.name} and {second.name}"),
        "runs": f'{told}<div class="about">\n<div>{_about(first)}</div>\n<div>{_about(second)}</div>\n</div>',
        "kept": "samples.jsonl of each evaluation's folder",
    }
    write_text(path, _page([first, second], problems, slots))


def _page(runs: Sequence[ShownRun], problems: Sequence[Problem], slots: dict[str, str]) -> str:
    formulas = Formulas()
    end = max(_SHORTEST_END, min(_LONGEST_END, _ALL_ENDS // max(2 * sum(len(run.samples) for run in runs), 1)))
    drawn = [_by_problem(run.samples) for run in runs]
    # first in the table of formulas
    heads = [_head(problem, [own[problem.id] for own in drawn], formulas) for problem in problems]
    bodies = [[_body(sample, end, formulas) for own in drawn for sample in own[problem.id]] for problem in problems]
    blocks = [_block(f"samples-{number}", body) for number, body in enumerate(bodies)]
    names = _block("runs", [run.name for run in runs])
    data = [names, _block("problems", heads), _block("formulas", formulas.table), *blocks]
    own = {"bench": _escape(runs[0].summary.get("bench", "samples")), "data": "\n".join(data)}
    return _fill(_template(), slots | own)


def _template() -> str:
    """The page without its contents; style and script are part of it."""
    text = {kind: (_FOLDER / f"samples.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js")}
    return text["html"].replace("{{style}}", common_style() + text["css"]).replace("{{script}}", text["js"])


def _by_problem(samples: Sequence[dict[str, Any]]) -> defaultdict[str, list[dict[str, Any]]]:
    drawn = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: sample["sample"]):
        drawn[sample["problem"]].append(sample)
    return drawn


def _head(problem: Problem, drawn: Sequence[Sequence[dict[str, Any]]], formulas: Formulas) -> dict[str, Any]:
    """The part of a problem that the page shows before it is opened; the samples of each run."""
    text, gold = formulas.split(problem.problem), formulas.answer(problem.answer)
    runs = [
        {
            "most": _most_frequent(samples, formulas),
            "samples": [[sample["sample"], sample["status"]] for sample in samples],
        }
        for samples in drawn
    ]
    return {"id": problem.id, "problem": text, "gold": gold, "runs": runs}


def _most_frequent(samples: Sequence[dict[str, Any]], formulas: Formulas) -> tuple[Any, int, int, str] | None:
    """The answer that most samples give, by its text: how often, of how many answers, and how it was graded."""
    statuses = {sample["answer"]: sample["status"] for sample in samples if sample["answer"] is not None}
    counts = Counter(sample["answer"] for sample in samples if sample["answer"] is not None)
    if counts.total() < 2:
        return None
    [(answer, times)] = counts.most_common(1)
    return formulas.answer(answer), times, counts.total(), statuses[answer]


def _body(sample: dict[str, Any], end: int, formulas: Formulas) -> dict[str, Any]:
    """The part of a sample that the page shows. The seed is text, because JavaScript would round it."""
    thinking, text = split_thinking(sample["text"])
    first, left_out, last = _both_ends(text, end)
    return {
        "answer": formulas.answer(sample["answer"]),
        "tokens": sample["tokens"],
        "seed": str(sample["seed"]),
        "thinking": _both_ends(thinking, end) if thinking else None,
        "text": (formulas.split(first), left_out, formulas.split(last)),
    }


def _both_ends(text: str, end: int) -> tuple[str, int, str]:
    """The text's two ends and the number of characters left out between them."""
    if len(text) <= 2 * end:
        return text, 0, ""
    return text[:end], len(text) - 2 * end, text[-end:]


def _block(name: str, value: Any) -> str:
    """A value as JSON that no parser of HTML can take for markup."""
    text = json.dumps(value, separators=(",", ":"))  # ASCII, so without the separators that end a line of JavaScript
    text = text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _fill(template: str, slots: dict[str, str]) -> str:
    """The template with its slots filled, all at once, so that no data is searched for slots."""
    filled = {"policy": page_policy(template)} | slots
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], template)


def _about(run: ShownRun, fold: str = "") -> str:
    """A run's name and figures, and its summary as a fold below another one."""
    summary = _escape(json.dumps(run.summary, indent=2, ensure_ascii=False))
    return (
        f'<p class="target">{_escape(run.name)}</p>\n<dl class="figures">\n{_figures(run.summary)}\n</dl>\n'
        f'{fold}<details class="all"><summary>The whole summary</summary><pre>{summary}</pre></details>'
    )


def _prompt(prompt: str) -> str:
    """The prompt as a fold of the page, or nothing."""
    if not prompt:
        return ""
    title = "What the model reads of the first problem"
    return f'<details class="all"><summary>{title}</summary><pre>{_escape(prompt)}</pre></details>\n'


def _target(summary: dict[str, Any]) -> str:
    target, step = summary.get("target", ""), summary.get("step")
    return f"{target}, step {step}" if step else str(target)


def _figures(summary: dict[str, Any]) -> str:
    """The summary's figures as the terms of a list."""
    n = summary.get("n", "n")
    passed = (summary.get("pass_at_k") or {}).get(str(n))
    average = f"{_percent(summary.get('average'))} ± {_percent(summary.get('stderr'))} %"
    figures = {
        f"Average@{n} ± stderr": average,
        f"pass@{n}": f"{_percent(passed)} %",
        f"majority@{n}": f"{_percent(summary.get('majority'))} %",
        "truncated": _count(summary.get("truncated")),
        "no answer": _count(summary.get("no_answer")),
        "grader failures": _count(summary.get("grader_failures")),
        "mean tokens": _count(summary.get("mean_tokens")),
    }
    return "\n".join(f"<div><dt>{_escape(name)}</dt><dd>{_escape(value)}</dd></div>" for name, value in figures.items())


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _count(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}"


def _escape(text: object) -> str:
    """Text as ASCII HTML, so that even half a character pair can be written."""
    return escape(str(text)).encode("ascii", "xmlcharrefreplace").decode()
