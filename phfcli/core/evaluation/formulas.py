"""Converts the formulas of a page from LaTeX to trees of allowed MathML elements, each formula once."""

import re
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import Converter

from phfcli.core.grading.latex import group_end

_LONGEST_FORMULA = 2_000  # characters

_MOST_FORMULAS = 20_000  # converted for one page: they take about ten seconds and ten megabytes

_DEEPEST = 60  # nesting of elements

_CLOSERS = {"$$": "$$", "$": "$", r"\[": r"\]", r"\(": r"\)"}

# a box or an environment opens a formula without a delimiter
_OPENER = re.compile(
    r"(?<!\\)(?:\$\$|\$|\\\[|\\\(|\\boxed\s*\{|\\begin\{(?:align|aligned|equation|gather|gathered|cases|array|[bpv]?matrix)\*?\})"
)

_DELIMITER = re.compile(r"(?<!\\)(?:\$|\\\[|\\\()")

# environments that the converter does not know, or would number -> environments that it knows
_SAME_AS = (
    (re.compile(r"\\(begin|end)\{(?:align|aligned|eqnarray)\*?\}"), r"\\\1{align*}"),
    (re.compile(r"\\begin\{gather(?:ed)?\*?\}"), r"\\begin{array}{c}"),
    (re.compile(r"\\end\{gather(?:ed)?\*?\}"), r"\\end{array}"),
    (re.compile(r"\\(?:begin|end)\{equation\*?\}"), ""),
    (re.compile(r"\\\\\[[\d.]+\s*(?:pt|em|ex|mm|cm)\]"), r"\\\\"),  # the spacing after a line
)

_OWN_LINE = {"$$", r"\["}

_LATEX = re.compile(r"[\\^_{}]")

# macros may expand endlessly; the converter drops the text after a % and reads \binom52 as \binom{52}
_REFUSED = re.compile(
    r"\\(?:(?:re|provide)?newcommand|newenvironment|def|DeclareMathOperator)"
    r"|(?<!\\)%.|\\(?:[dt]?binom|sqrt)\s*\d\d",
    re.DOTALL,
)

_UNKNOWN = re.compile(r"\\[A-Za-z]")  # the converter passes an unknown command on as text

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

_VALUE = re.compile(r"(?!.*(?<![.\d])\d{3})[\w.+\-% ]*", re.ASCII)  # words and lengths, without numbers of three digits

Tree = list[Any]  # [element, {attribute: value}, each child: a tree, or a text]

Rich = list[str | int]  # texts and numbers of formulas, in reading order


class Formulas:
    """The formulas of a page, each once: (source, whether it is a displayed formula, its tree or None)."""

    def __init__(self) -> None:
        self.table: list[tuple[str, bool, Tree | None]] = []
        self._numbers: dict[str, int] = {}

    def number(self, source: str, latex: str, display: bool = False) -> int:
        """The formula's index in the table, to which it is added if it is new; `source` is `latex` with delimiters."""
        if source not in self._numbers:
            tree = _convert(latex, display) if len(self.table) < _MOST_FORMULAS else None
            self._numbers[source] = len(self.table)
            self.table.append((source, display, tree))
        return self._numbers[source]

    def split(self, text: str) -> Rich:
        """The parts of a text, with formulas as their indices; a dollar sign that opens no formula stays text."""
        parts: Rich = []
        done = position = 0
        while match := _OPENER.search(text, position):
            position = match.end()
            formula = _formula(text, match)
            if formula is not None:
                after, latex, display = formula
                number = self.number(text[match.start() : after], latex, display)
                parts += [text[done : match.start()], number] if match.start() > done else [number]
                done = position = after
        return [*parts, text[done:]] if done < len(text) or not parts else parts

    def answer(self, answer: str | None) -> Rich | None:
        """The parts of an answer, which is a formula as a whole if it looks like LaTeX without delimiters."""
        if answer is None:
            return None
        if len(answer) > _LONGEST_FORMULA:
            return [answer[:_LONGEST_FORMULA] + "…"]
        if _LATEX.search(answer) and not _DELIMITER.search(answer):
            return [self.number(answer, answer)]
        return self.split(answer)


def _formula(text: str, opened: re.Match[str]) -> tuple[int, str, bool] | None:
    """(end, LaTeX, whether it is displayed) of the formula that was opened, or None if it opens no formula."""
    opener, start = opened[0], opened.start()
    if opener in _CLOSERS:
        end = _formula_end(text, opener, opened.end())
        return (
            None
            if end is None
            else (end + len(_CLOSERS[opener]), text[opened.end() : end].strip(), opener in _OWN_LINE)
        )
    if opener.endswith("{"):
        brace = group_end(text, opened.end() - 1)
        return None if brace is None else (brace + 1, text[start : brace + 1], False)
    closer = opener.replace("begin", "end", 1)
    end = text.find(closer, opened.end())
    return None if end < 0 else (end + len(closer), text[start : end + len(closer)], True)


def _formula_end(text: str, opener: str, start: int) -> int | None:
    """The index at which the formula that begins at `start` closes, or None if the opener is a plain character.

    A single dollar sign may mean money. The text between two of them is no formula if it has a space at only one end,
    if a digit follows it, or if it holds an empty line.
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
    r"""The formula as a checked MathML tree, or None if it cannot be converted.

    The tree of the converter is used and not its text output, which does not escape the content of \text{...}.
    """
    if len(latex) > _LONGEST_FORMULA or _REFUSED.search(latex):
        return None
    for pattern, known in _SAME_AS:
        latex = pattern.sub(known, latex)
    try:
        return _vetted(Converter(display="block" if display else "inline").convert_to_element(latex))
    except Exception:  # the converter may raise anything for a malformed formula
        return None


def _vetted(element: Element, depth: int = 0) -> Tree:
    """The element as a tree. Raises ValueError for anything but allowed MathML, and for an unconverted command."""
    attributes = {name: value for name, value in element.attrib.items() if name != "xmlns"}
    fits = all(_ATTRIBUTES.fullmatch(name) and _VALUE.fullmatch(value) for name, value in attributes.items())
    text = element.text or ""
    if not (fits and _ELEMENTS.fullmatch(element.tag)) or element.tail or depth > _DEEPEST or _UNKNOWN.search(text):
        raise ValueError(f"not to be shown as a formula: {element.tag}")
    leaf = [_REFERENCE.sub(lambda match: chr(int(match[1], 16)), text)] if text else []
    return [element.tag, attributes, *leaf, *(_vetted(child, depth + 1) for child in element)]
