r"""The page that shows an evaluation's samples: one file that asks the network for nothing.

What a model wrote is never parsed as markup. Text goes into the page as JSON and from there into text nodes. A formula
goes in as a tree of MathML elements, vetted here, and is built element by element. The page's policy allows its own
style and script by their hashes and nothing else.

Formulas are converted in problems, answers and what follows the thinking. The thinking stays as it was written: it can
be hundreds of thousands of characters long, with too many formulas to convert, and of a long one only both ends are
shown. samples.jsonl, beside the page, holds everything.
"""

import json
import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import Converter

from phfcli.core.storage.files import write_text
from phfcli.core.types import Problem

_TEMPLATE = Path(__file__).with_suffix(".html")

_LONGEST_END = 10_000  # characters shown of each end of a long text
_SHORTEST_END = 1_000
_ALL_ENDS = 30_000_000  # characters: the ends are shorter where a page of many samples would exceed this
_LONGEST_FORMULA = 2_000  # characters
_MOST_FORMULAS = 20_000  # converted in one page, which takes ten seconds and ten megabytes
_DEEPEST = 60  # elements within elements

_CLOSERS = {"$$": "$$", "$": "$", r"\[": r"\]", r"\(": r"\)"}
_OPENER = re.compile(r"(?<!\\)(?:\$\$|\$|\\\[|\\\()")
_LATEX = re.compile(r"[\\^_{}]")
# macros may expand without end; the converter drops what follows a % and reads \binom52 as \binom{52}
_REFUSED = re.compile(
    r"\\(?:(?:re|provide)?newcommand|newenvironment|def|DeclareMathOperator)"
    r"|(?<!\\)%.|\\(?:[dt]?binom|sqrt)\s*\d\d",
    re.DOTALL,
)
_UNKNOWN = re.compile(r"\\[A-Za-z]")  # the converter processes on a command that it does not know as text
_REFERENCE = re.compile(r"&#x([0-9A-Fa-f]{1,6});")
_ELEMENTS = re.compile(
    "math|menclose|mfrac|mi|mmultiscripts|mn|mo|mover|mpadded|mprescripts|mroot|mrow|mspace|msqrt|mstyle|msub|msubsup"
    "|msup|mtable|mtd|mtext|mtr|munder|munderover|none"
)
_ATTRIBUTES = re.compile(
    "accent|accentunder|columnalign|columnlines|columnspacing|depth|display|displaystyle|fence|form|frame|height"
    "|largeop|linethickness|lspace|mathsize|mathvariant|maxsize|minsize|movablelimits|notation|rowlines|rowspacing"
    "|rspace|scriptlevel|separator|stretchy|symmetric|voffset|width"
)
_VALUE = re.compile(r"(?!.*(?<![.\d])\d{3})[\w.+\-% ]*", re.ASCII)  # words and lengths, none of them huge

Tree = list[Any]  # [element, {attribute: value}, each child: a tree, or a text]
Rich = list[str | int]  # texts and numbers of formulas, in reading order


def write_page(
    path: Path, summary: dict[str, Any], problems: Sequence[Problem], samples: Sequence[dict[str, Any]]
) -> None:
    """Writes the page of an evaluation.

    summary: as in summary.json; a figure that it lacks is shown as –, one that has no place of its own only as JSON.
    samples: lines of samples.jsonl, in any order; those of no problem in `problems` are left out.
    """
    formulas = _Formulas()
    end = max(_SHORTEST_END, min(_LONGEST_END, _ALL_ENDS // max(2 * len(samples), 1)))
    drawn = _by_problem(samples)
    heads = [_head(problem, drawn[problem.id], formulas) for problem in problems]  # first in the table of formulas
    bodies = [[_body(sample, end, formulas) for sample in drawn[problem.id]] for problem in problems]
    blocks = [_block(f"samples-{number}", body) for number, body in enumerate(bodies)]
    data = [_block("problems", heads), _block("formulas", formulas.table), *blocks]
    write_text(path, _fill(_TEMPLATE.read_text(encoding="utf-8"), summary, "\n".join(data)))


class _Formulas:
    """The formulas of a page, each once: [source, whether it stands on a line of its own, its tree or None]."""

    def __init__(self) -> None:
        self.table: list[tuple[str, bool, Tree | None]] = []
        self._numbers: dict[str, int] = {}

    def number(self, source: str, latex: str, display: bool = False) -> int:
        """Where the formula stands in the table; `source` is `latex` with its delimiters."""
        if source not in self._numbers:
            tree = _convert(latex, display) if len(self.table) < _MOST_FORMULAS else None
            self._numbers[source] = len(self.table)
            self.table.append((source, display, tree))
        return self._numbers[source]

    def split(self, text: str) -> Rich:
        """A text with its formulas as numbers; a dollar that opens no formula stays text."""
        parts: Rich = []
        done = position = 0
        while match := _OPENER.search(text, position):
            position = match.end()
            end = _formula_end(text, match[0], position)
            if end is not None:
                after = end + len(_CLOSERS[match[0]])
                source, latex = text[match.start() : after], text[position:end].strip()
                number = self.number(source, latex, display=match[0] in {"$$", r"\["})
                parts += [text[done : match.start()], number] if match.start() > done else [number]
                done = position = after
        return [*parts, text[done:]] if done < len(text) or not parts else parts

    def answer(self, answer: str | None) -> Rich | None:
        """The content of a box or a gold answer: a formula where it looks like one, even without delimiters."""
        if answer is None:
            return None
        if len(answer) > _LONGEST_FORMULA:
            return [answer[:_LONGEST_FORMULA] + "…"]
        if _LATEX.search(answer) and not _OPENER.search(answer):
            return [self.number(answer, answer)]
        return self.split(answer)


def _formula_end(text: str, opener: str, start: int) -> int | None:
    """Where the formula that begins at `start` closes, or None if the opener is only a character.

    A single dollar may be money: what it opens must not have a space at one end alone, close before a digit, or
    reach over an empty line.
    """
    end = text.find(_CLOSERS[opener], start)
    while opener == "$" and end > start and text[end - 1] == "\\":
        end = text.find("$", end + 1)
    body = text[start:end]
    if end < 0 or not body.strip():
        return None
    if opener == "$":
        uneven = body[0].isspace() != body[-1].isspace()
        if uneven or "\n\n" in body or text[end + 1 : end + 2].isdigit():
            return None
    return end


def _convert(latex: str, display: bool) -> Tree | None:
    r"""The formula as vetted MathML, or None where it has to stay LaTeX.

    The converter's tree is taken, not its text, which does not escape what stands in \text{...}.
    """
    if len(latex) > _LONGEST_FORMULA or _REFUSED.search(latex):
        return None
    try:
        return _vetted(Converter(display="block" if display else "inline").convert_to_element(latex))
    except Exception:  # of whichever kind: it was made for formulas without mistakes
        return None


def _vetted(element: Element, depth: int = 0) -> Tree:
    """The element as a tree. Raises ValueError for anything but harmless MathML with every command understood."""
    attributes = {name: value for name, value in element.attrib.items() if name != "xmlns"}
    fits = all(_ATTRIBUTES.fullmatch(name) and _VALUE.fullmatch(value) for name, value in attributes.items())
    text = element.text or ""
    if not (fits and _ELEMENTS.fullmatch(element.tag)) or element.tail or depth > _DEEPEST or _UNKNOWN.search(text):
        raise ValueError(f"not to be shown as a formula: {element.tag}")
    leaf = [_REFERENCE.sub(lambda match: chr(int(match[1], 16)), text)] if text else []
    return [element.tag, attributes, *leaf, *(_vetted(child, depth + 1) for child in element)]


def _by_problem(samples: Sequence[dict[str, Any]]) -> defaultdict[str, list[dict[str, Any]]]:
    drawn = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: sample["sample"]):
        drawn[sample["problem"]].append(sample)
    return drawn


def _head(problem: Problem, samples: Sequence[dict[str, Any]], formulas: _Formulas) -> dict[str, Any]:
    """What the page shows of a problem before it is opened."""
    return {
        "id": problem.id,
        "problem": formulas.split(problem.problem),
        "gold": formulas.answer(problem.answer),
        "samples": [[sample["sample"], sample["status"]] for sample in samples],
    }


def _body(sample: dict[str, Any], end: int, formulas: _Formulas) -> dict[str, Any]:
    """What the page shows of a sample. A seed is text: JavaScript's numbers would round it."""
    thinking, text = _split_thinking(sample["text"])
    first, left_out, last = _both_ends(text, end)
    return {
        "answer": formulas.answer(sample["answer"]),
        "tokens": sample["tokens"],
        "seed": str(sample["seed"]),
        "thinking": _both_ends(thinking, end) if thinking else None,
        "text": (formulas.split(first), left_out, formulas.split(last)),
    }


def _split_thinking(text: str) -> tuple[str, str]:
    """The thinking, and what follows it. The prompt may have opened the thinking, the token limit may have cut it."""
    thinking, closed, rest = text.partition("</think>")
    if not closed and not text.lstrip().startswith("<think>"):
        return "", text
    return thinking.lstrip().removeprefix("<think>").strip(), rest.strip()


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


def _fill(template: str, summary: dict[str, Any], data: str) -> str:
    """The template with its slots filled, all at once, so that no data is searched for slots."""
    slots = {
        "policy": page_policy(template),
        "bench": _escape(summary.get("bench", "samples")),
        "target": _escape(_target(summary)),
        "figures": _figures(summary),
        "summary": _escape(json.dumps(summary, indent=2, ensure_ascii=False)),
        "data": data,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: slots[match[1]], template)


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
