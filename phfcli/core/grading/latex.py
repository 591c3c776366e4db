"""Reads the LaTeX of an answer: the last box, its parts, and the rules that normalise its spelling."""

import itertools
import re
from collections.abc import Callable

from phfcli.core.grading.exact import plain_number

_TOKEN = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace \{ is a symbol, not a group
_BARE = re.compile(r"\s*([+-]?[0-9](?:[0-9.,]*[0-9])?|[A-Za-z])(?![A-Za-z0-9])")
_JOINED = re.compile(r"[\s$,;.]*(?:and|or|\\text\{\s*(?:and|or)\s*\})?[\s$,]*")
_COMMAND = "\\boxed"


def last_box(text: str) -> str | None:
    r"""The content of the last \boxed in `text`, or None.

    None means that there is no box, that the last one is empty, or that the last one is never closed; an earlier box is
    then not the final answer. `\boxed 5` and `\boxed x` (one number or one letter) count as boxes too. A mention of the
    command without content is skipped.
    """
    start = text.rfind(_COMMAND)
    while start >= 0:
        after = start + len(_COMMAND)
        if text[after : after + 1].isalpha():  # \boxedsomething is another command
            start = text.rfind(_COMMAND, 0, start)
            continue
        brace = after + len(text[after:]) - len(text[after:].lstrip())
        if text[brace : brace + 1] == "{":
            end = group_end(text, brace)
            return text[brace + 1 : end].strip() or None if end is not None else None
        if bare := _BARE.match(text, after):
            return bare[1]
        if not text[after:].strip():
            return None  # the completion is cut there
        start = text.rfind(_COMMAND, 0, start)  # the command is only mentioned
    return None


def last_boxes(text: str) -> list[str]:
    r"""The contents of the last boxes, in order, as long as only "and", "or" and commas stand between them."""
    starts = [match.start() for match in re.finditer(r"\\boxed\s*\{", text)]
    boxes: list[str] = []
    following = len(text)
    for start in reversed(starts):
        brace = text.index("{", start)
        end = group_end(text, brace)
        if end is None or (boxes and not _JOINED.fullmatch(text, end + 1, following)):
            break
        boxes.insert(0, text[brace + 1 : end].strip())
        following = start
    return boxes


def split_thinking(text: str) -> tuple[str, str]:
    """(thinking, text after it). The prompt may hold the opening tag; the token limit may cut off the closing one."""
    thinking, closed, rest = text.partition("</think>")
    if not closed and not text.lstrip().startswith("<think>"):
        return "", text
    return thinking.lstrip().removeprefix("<think>").strip(), rest.strip()


def group_end(text: str, brace: int) -> int | None:
    """Position of the brace that closes the one at `brace`, or None where there is none."""
    depth = 0
    for token in _TOKEN.finditer(text, brace):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                return token.start()
    return None


def unwrap(text: str, commands: frozenset[str]) -> str:
    r"""Replaces \command{content} by content for each of the commands, also where they are nested."""
    pattern = re.compile(r"\\([a-zA-Z]+)\s*\{")
    position = 0
    while match := pattern.search(text, position):
        brace = match.end() - 1
        end = group_end(text, brace) if match[1] in commands else None
        if end is None:
            position = match.end()
        else:
            text = text[: match.start()] + " " + text[brace + 1 : end] + text[end + 1 :]
            position = match.start()
    return text


def split_commas(text: str) -> list[str]:
    """Splits at the commas outside all brackets; in an unbalanced text at those where the bracket depth is zero."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"\\[a-zA-Z]+|\\.|[()\[\]{},]", text, re.DOTALL):
        token = match[0].removeprefix("\\")
        if token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
        elif match[0] == "," and depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def enclosure(text: str) -> str | None:
    r"""The bracket around a whole list: "{" for \{a, b\}, "(" for (a, b), [a, b] and (a, b]; None if there is none."""
    opening, closing = ("\\{", "\\}") if text.startswith("\\{") else (text[:1], text[-1:])
    if opening not in {"\\{", "(", "["} or not text.endswith(closing) or closing not in {"\\}", ")", "]"}:
        return None
    depth = 0
    for match in re.finditer(r"\\[{}]|[()\[\]]", text):
        depth += 1 if match[0] in {"\\{", "(", "["} else -1
        if depth == 0 and match.end() != len(text):
            return None
    body = text[len(opening) : -len(closing)]
    if len(split_commas(body)) < 2 or re.search(r"[:|<>]|\\mid|\\[lg]eq?", body):
        return None
    return "{" if opening == "\\{" else "("


Rule = Callable[[str], str]

_UNICODE = str.maketrans(
    {
        **dict.fromkeys("−–—‒﹣－", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f", " "),
        **dict.fromkeys("\u200b\ufeff\u2060", ""),
        **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty "},
        **{"°": r"^\circ ", "±": r"\pm ", "∅": r"\emptyset ", "。": ".", "，": ", ", "、": ", ", "％": r"\%"},
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) not in "，％"},  # full width
        **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "},
    }
)
_VULGAR = {
    character: rf"\frac{{{numerator}}}{{{denominator}}}"
    for characters, denominator, numerators in (
        ("½", 2, "1"), ("⅓⅔", 3, "12"), ("¼¾", 4, "13"), ("⅕⅖⅗⅘", 5, "1234"), ("⅙⅚", 6, "15"), ("⅐", 7, "1"),
        ("⅛⅜⅝⅞", 8, "1357"), ("⅑", 9, "1"), ("⅒", 10, "1"),
    )
    for character, numerator in zip(characters, numerators, strict=True)
}  # fmt: skip
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ]+")
_ROOT_SIGNS = {"√": "", "∛": "[3]", "∜": "[4]"}
_ROOT_SIGN = re.compile(r"([√∛∜])\s*([0-9]+(?:\.[0-9]+)?|[a-zA-Z]|(?=[({]))")
_PARENTHESISED_ROOT = re.compile(r"\\sqrt\s*(?=\()")
_LABEL = r"(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?answer(?:\s+is)?\s*[:=]?\s*"
_ALIGNED = re.compile(
    r"\\begin\s*\{(aligned|align\*?|gathered|gather\*?|split|eqnarray\*?)\}(.*)\\end\s*\{\1\}", re.DOTALL
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


def _written_out(text: str) -> str:
    """Writes Unicode fractions, powers and roots as LaTeX."""
    for character, fraction in _VULGAR.items():
        text = text.replace(character, fraction)
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", text)
    return _ROOT_SIGN.sub(_root, text)


def _root(match: re.Match[str]) -> str:
    """A root sign covers the number or letter after it; `_braced_roots` handles a bracket after it."""
    return rf"\sqrt{_ROOT_SIGNS[match[1]]}" + (f"{{{match[2]}}}" if match[2] else "")


def _braced_roots(text: str) -> str:
    r"""Writes \sqrt(a) as \sqrt{a} if the bracket is closed."""
    position = 0
    while match := _PARENTHESISED_ROOT.search(text, position):
        position = match.end()
        end = _closing(text, position)
        if end is not None:
            text = f"{text[: match.start()]}\\sqrt{{{text[position + 1 : end]}}}{text[end + 1 :]}"
    return text


def _closing(text: str, start: int) -> int | None:
    """The index at which the round bracket at `start` closes, or None."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return None


def _last_line(text: str) -> str:
    """Replaces an aligned block by its last line, which is where a derivation ends."""
    match = _ALIGNED.search(text)
    if match is None:
        return text
    lines = [line for line in re.split(r"\\\\(?:\[[^\]]*\])?", match[2]) if line.strip()]
    return text[: match.start()] + (lines[-1].replace("&", "") if lines else "") + text[match.end() :]


def _printable(text: str) -> str:
    """Replaces control characters, NUL and lone surrogates, which carry no mathematics and break parsers."""
    return "".join(c if c.isprintable() else " " for c in text.translate(_UNICODE))


def _delimiters(text: str) -> str:
    r"""Strips \(...\) and \[...\] around the whole, and the punctuation that ends a sentence."""
    text = text.strip()
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(opening) and text.endswith(closing):
            text = text[2:-2]
    return text.strip().rstrip(".,;: ")


def _percent(text: str) -> str:
    """Writes a percentage inside a formula as a fraction; one that stands alone is read as a plain number."""
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
    ("written out", _written_out),
    ("aligned", _last_line),
    ("answer label in text", _sub(rf"^\s*\\text\s*\{{\s*(?i:{_LABEL})\}}\s*(?=\S)", "")),
    ("answer label", _sub(rf"^\s*(?i:{_LABEL})(?=[^\sa-zA-Z])", "")),
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
    ("roots", _braced_roots),
    ("approximately", _sub(r"^\s*(?:[a-zA-Z]\s*)?\\(?:approx|simeq|sim)(?![a-zA-Z])\s*", "")),
    ("degrees of an angle", _sub(rf"({_TRIGONOMETRIC}){_DEGREES}", r"\1\\frac{\2\\pi}{180}")),
    ("imaginary unit", _sub(r"(?<=[0-9])i(?![a-zA-Z])", " i")),
    ("scientific", _sub(rf"(?<![\w.}}\\]){_DECIMAL}[eE]\+?(-?[0-9]+)(?![\w.])", r"\1\\times 10^{\2}")),
    ("percent sign", _sub(r"\s*\\text\s*\{\s*(?:percent|\\?%)\s*\}|(?<=[0-9])\s*percent(?![a-zA-Z])|(?<!\\)%", r"\\%")),
    ("percent of a fraction", _sub(r"(\\frac\s*\{[^{}]*\}\s*\{[^{}]*\})\s*\\%", r"\\frac{\1}{100}")),
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
    """The text in the spelling that the rest of the grader expects: all RULES applied in order."""
    for _, rule in RULES:
        text = rule(text)
    return text
