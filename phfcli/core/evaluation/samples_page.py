"""The page of the samples of one evaluation, or of two side by side: one HTML file that needs no network."""

import json
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from phfcli.core.errors import percent
from phfcli.core.evaluation.formulas import Formulas
from phfcli.core.grading.latex import split_thinking
from phfcli.core.storage.files import write_text
from phfcli.core.types import Problem

_FOLDER = Path(__file__).parent / "page"
_LONGEST_END = 10_000  # characters shown at each end of a long text
_SHORTEST_END = 1_000
_ALL_ENDS = 30_000_000  # characters of all ends together; a page with more samples shows shorter ends


@dataclass(frozen=True)
class ShownRun:
    """One evaluation on a page.

    Attributes:
        summary: the content of summary.json. A missing figure is shown as "-".
        samples: lines of samples.jsonl in any order; those of problems that the page does not show are ignored.
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

    Args:
        prompt: the prompt of the first problem, if it is known.
    """
    run = ShownRun(_target(summary), summary, samples)
    values = {"title": f"samples of {run.name}", "kept": "samples.jsonl beside this page", "difference": ""}
    write_text(path, _page([run], problems, values, prompt))


def write_pair_page(
    path: Path, first: ShownRun, second: ShownRun, problems: Sequence[Problem], difference: str = ""
) -> None:
    """Writes the page that shows two evaluations of one benchmark side by side.

    Args:
        difference: a sentence on the difference of their averages, if it is known.
    """
    values = {
        "title": f"samples of {first.name} and {second.name}",
        "kept": "samples.jsonl of each evaluation's folder",
        "difference": difference,
    }
    write_text(path, _page([first, second], problems, values))


def _page(runs: Sequence[ShownRun], problems: Sequence[Problem], values: dict[str, Any], prompt: str = "") -> str:
    formulas = Formulas()
    end = max(_SHORTEST_END, min(_LONGEST_END, _ALL_ENDS // max(2 * sum(len(run.samples) for run in runs), 1)))
    drawn = [_by_problem(run.samples) for run in runs]
    # the heads come before the bodies, so that their formulas are the first in the table
    heads = [_head(problem, [samples[problem.id] for samples in drawn], formulas) for problem in problems]
    bodies = [
        [_body(sample, end, formulas) for samples in drawn for sample in samples[problem.id]] for problem in problems
    ]
    data = {"runs": [run.name for run in runs], "problems": heads, "formulas": formulas.table}
    data |= {f"samples-{number}": body for number, body in enumerate(bodies)}
    about = [
        {
            "name": run.name,
            "figures": _figures(run.summary),
            "prompt": prompt,
            "summary": json.dumps(run.summary, indent=2, ensure_ascii=False),
        }
        for run in runs
    ]
    values |= {"bench": runs[0].summary.get("bench", "samples"), "runs": about, "data": data}
    css, script = ((_FOLDER / f"samples.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return fill_template(_FOLDER / "samples.html", common_style() + css, script, values)


def _by_problem(samples: Sequence[dict[str, Any]]) -> defaultdict[str, list[dict[str, Any]]]:
    drawn = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: sample["sample"]):
        drawn[sample["problem"]].append(sample)
    return drawn


def _head(problem: Problem, drawn: Sequence[Sequence[dict[str, Any]]], formulas: Formulas) -> dict[str, Any]:
    """The part of a problem that the page shows before the reader opens it."""
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
    """(answer, its count, the number of answers, its status) of the most frequent answer, by its text."""
    statuses = {sample["answer"]: sample["status"] for sample in samples if sample["answer"] is not None}
    counts = Counter(sample["answer"] for sample in samples if sample["answer"] is not None)
    if counts.total() < 2:
        return None
    [(answer, times)] = counts.most_common(1)
    return formulas.answer(answer), times, counts.total(), statuses[answer]


def _body(sample: dict[str, Any], end: int, formulas: Formulas) -> dict[str, Any]:
    """The content of a sample on the page. The seed is a string, because JavaScript would round the number."""
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
    """(start, number of characters left out, end) of a text."""
    if len(text) <= 2 * end:
        return text, 0, ""
    return text[:end], len(text) - 2 * end, text[-end:]


def _target(summary: dict[str, Any]) -> str:
    target, step = summary.get("target", ""), summary.get("step")
    return f"{target}, step {step}" if step else str(target)


def _figures(summary: dict[str, Any]) -> dict[str, str]:
    """The summary's figures by their names."""
    n = summary.get("n", "n")
    passed = (summary.get("pass_at_k") or {}).get(str(n))
    average = f"{percent(summary.get('average'))} ± {percent(summary.get('stderr'))} %"
    return {
        f"Average@{n} ± stderr": average,
        "greedy": f"{percent(summary.get('greedy'))} %",
        f"pass@{n}": f"{percent(passed)} %",
        f"majority@{n}": f"{percent(summary.get('majority'))} %",
        "truncated": _count(summary.get("truncated")),
        "no answer": _count(summary.get("no_answer")),
        "grader failures": _count(summary.get("grader_failures")),
        "mean tokens": _count(summary.get("mean_tokens")),
    }


def _count(number: float | None) -> str:
    return "-" if number is None else f"{number:,.0f}"


def fill_template(template: Path, style: str, script: str, values: Mapping[str, Any]) -> str:
    """Renders a template as a self-contained page; values that are not marked safe are escaped."""
    loader = FileSystemLoader(template.parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {
        "separators": (",", ":")
    }  # for the filter tojson, which writes ASCII without < > &
    fixed = {"style": style, "script": script, "policy": page_policy(style, script)}
    page = environment.get_template(template.name).render(values, **fixed)
    return page.encode("utf-8", "replace").decode()  # a lone surrogate cannot be encoded


def page_policy(style: str, script: str) -> str:
    """The content security policy: allows only this style and script, by their hashes, and no injected markup."""
    allowed_style, allowed_script = (b64encode(sha256(text.encode()).digest()).decode() for text in (style, script))
    return (
        f"default-src 'none'; style-src 'sha256-{allowed_style}'; script-src 'sha256-{allowed_script}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )


def common_style() -> str:
    """The CSS of colours, type and controls that the samples page and the report share."""
    return (_FOLDER / "common.css").read_text(encoding="utf-8")
