r"""Normalises answers and golds: one spelling for what LaTeX can write in several ways.

Each rule has a name, is documented in docs/grading.md and changes the spelling only, never the value. The rules run in
order on a text of bounded length; no pattern nests one unbounded repetition in another.
"""

import itertools
import re
from collections.abc import Callable

from phfcli.core.grading.boxes import split_commas, unwrap
from phfcli.core.grading.numbers import plain_number

Rule = Callable[[str], str]

_UNICODE = str.maketrans(
    {
        **dict.fromkeys("−–—‒﹣－", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f", " "),
        **dict.fromkeys("\u200b\ufeff\u2060", ""),
        **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty "},
        **{"°": r"^\circ ", "√": r"\sqrt ", "²": "^2", "³": "^3", "±": r"\pm ", "∅": r"\emptyset "},
        **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "},
    }
)
_UNWRAPPED = frozenset(
    {"boxed", "fbox", "underline", "uline", "mathbf", "boldsymbol", "bm", "mathit", "mathsf", "mathtt"}
)
_TEXT = r"\\(?:mathrm|textrm|textnormal|textbf|textit|textsf|texttt|mbox|hbox|emph)(?![a-zA-Z])"
_THIN = r"(?:,?(?<!\\)\\[,;:! ]|~|\{,\})\s*"
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|ln|log|exp|sqrt|pi|infty"
_DECIMAL = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"  # a run of digits matches in one way only, or the time would be cubic
_PERCENTAGE = re.compile(rf"(?<![0-9]){_DECIMAL}\s*\\%")
_TRIGONOMETRIC = r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])(?:\s*\^\s*(?:[0-9]|\{[0-9]\}))?\s*[({]?\s*"
_DEGREES = r"([0-9]+(?:\.[0-9]+)?)\s*\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})"
_SIGN = re.compile(r"(\\pm|\\mp)(?![a-zA-Z])")
_SIGNS = {("\\pm", 1): "+", ("\\pm", -1): "-", ("\\mp", 1): "-", ("\\mp", -1): "+"}
_MAX_SIGNS = 3  # eight values


def _sub(pattern: str, replacement: str) -> Rule:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(replacement, text)


def _printable(text: str) -> str:
    """Control characters, NUL and lone surrogates carry no mathematics and break what they pass through."""
    return "".join(c if c.isprintable() else " " for c in text.translate(_UNICODE))


def _delimiters(text: str) -> str:
    r"""Strips \(...\) and \[...\] around the whole, and the punctuation that ends a sentence."""
    text = text.strip()
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(opening) and text.endswith(closing):
            text = text[2:-2]
    return text.strip().rstrip(".,;: ")


def _percent(text: str) -> str:
    """A percentage inside something else becomes its fraction; one that stands alone is read as a plain number."""
    return text if plain_number(text) else _PERCENTAGE.sub(r"\\frac{\1}{100}", text)


def _plus_minus(text: str) -> str:
    r"""Writes a \pm b as the two values a+b, a-b; several \pm in one element are independent, unless \mp ties them."""
    if not _SIGN.search(text):
        return text
    braces = text.startswith("\\{") and text.endswith("\\}")
    parts = split_commas(text[2:-2] if braces else text)
    listed = ", ".join(value.strip() for part in parts for value in _signed(part))
    return f"\\{{{listed}\\}}" if braces else listed


def _signed(part: str) -> list[str]:
    pieces = _SIGN.split(part)
    marks = len(pieces) // 2
    if marks > _MAX_SIGNS:
        return [part]
    tied = "\\mp" in pieces
    choices = [(1,) * marks, (-1,) * marks] if tied else list(itertools.product((1, -1), repeat=marks))
    return ["".join(_choose(pieces, choice)) for choice in choices]


def _choose(pieces: list[str], choice: tuple[int, ...]) -> list[str]:
    return [_SIGNS[piece, choice[i // 2]] if i % 2 else piece for i, piece in enumerate(pieces)]


RULES: tuple[tuple[str, Rule], ...] = (
    ("printable", _printable),
    ("display", _sub(r"\\(?:displaystyle|textstyle|limits|left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\.?", " ")),
    ("wrappers", lambda text: unwrap(text, _UNWRAPPED)),
    ("text", _sub(_TEXT, r"\\text")),
    ("text without words", _sub(r"\\text\s*\{([^{}a-zA-Z\\]*)\}", r"\1")),
    ("currency", _sub(r"\\\$|[$£€]|\\(?:pounds|euro)(?![a-zA-Z])", "")),
    ("thousands", _sub(rf"(?<=[0-9]){_THIN}(?=[0-9]{{3}}(?![0-9]))", "")),
    ("negative space", _sub(r"(?<!\\)\\!", "")),
    ("spaces", _sub(r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|\\[hv]space\*?\{[^{}]*\}", " ")),
    ("delimiters", _delimiters),
    ("fractions", _sub(r"\\[dtc]frac(?![a-zA-Z])", r"\\frac")),
    ("braces", _sub(r"\\lbrace(?![a-zA-Z])", r"\\{")),
    ("braces, closing", _sub(r"\\rbrace(?![a-zA-Z])", r"\\}")),
    ("angles", _sub(r"\\langle(?![a-zA-Z])", "(")),
    ("angles, closing", _sub(r"\\rangle(?![a-zA-Z])", ")")),
    ("empty set", _sub(r"\\varnothing(?![a-zA-Z])|\\\{\s*\\\}", r"\\emptyset ")),
    ("constants", _sub(r"\\text\s*\{\s*([ei])\s*\}", r" \1 ")),
    ("programs", _sub(r"(?<![a-zA-Z\\])(?:np|numpy|math|sympy)\.", "")),
    ("functions", _sub(rf"(?<![a-zA-Z\\{{])({_FUNCTIONS})(?![a-zA-Z])", r"\\\1 ")),
    ("degrees of an angle", _sub(rf"({_TRIGONOMETRIC}){_DEGREES}", r"\1\\frac{\2\\pi}{180}")),
    ("imaginary unit", _sub(r"(?<=[0-9])i(?![a-zA-Z])", " i")),
    ("scientific", _sub(rf"(?<![\w.}}\\]){_DECIMAL}[eE]\+?(-?[0-9]+)(?![\w.])", r"\1\\times 10^{\2}")),
    ("percent sign", _sub(r"\s*\\text\s*\{\s*(?:percent|\\?%)\s*\}|(?<=[0-9])\s*percent(?![a-zA-Z])|(?<!\\)%", r"\\%")),
    ("percent", _percent),
    ("factorials", _sub(r"([0-9]+|[a-zA-Z])!\s*\^", r"(\1!)^")),
    ("mixed fractions", _sub(r"(?<![0-9.])([0-9]+) +([0-9]+)/([0-9]+)(?![0-9.])", r"\1\\frac{\2}{\3}")),
    ("products", _sub(r"(?<![_^\w.}\\])([0-9]+(?:\.[0-9]+)?)\s*\((?!\s*[a-z{}\\ ]*mod)", r"\1\\cdot (")),
    ("products of groups", _sub(r"\)\s*(?=\(|[0-9]|\\frac)", r")\\cdot ")),
    ("plus or minus", _plus_minus),
    ("blanks", _sub(r"\s+", " ")),
    ("ends", _delimiters),
)


def normalise(text: str) -> str:
    """`text` in the one spelling that the rest of the grader expects."""
    for _, rule in RULES:
        text = rule(text)
    return text
