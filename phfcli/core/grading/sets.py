"""Spellings of intervals, sets, lists and the conditions behind a formula, written in one way."""

import itertools
import re

from phfcli.core.grading.latex import enclosure, split_commas

_SPAN = re.compile(r"(?:^|(?<=[\s=,;(])|(?<=cup)|(?<=in))([\[\](])([^\[\],;]+[,;][^\[\],;]+)([\[\])])(?=$|[\s,;).]|\\)")
_BUILDER = re.compile(r"\\\{\s*((?:[^{}|:]|\{[^{}]*\})+?)\s*(?:\\(?:mid|vert)(?![a-zA-Z])|:|\|)\s*(.*?)\s*\\\}")
_OF_THE_REALS = re.compile(r"([a-zA-Z])\s*\\in\s*\\mathbb\s*\{?\s*R\s*\}?")
_INTEGRAL = re.compile(r"[a-zA-Z]\s*\\in\s*\\mathbb\s*\{?\s*[ZN]")
_OR = re.compile(r"\s*(?:\\(?:lor|vee|cup)(?![a-zA-Z])|\\text\s*\{\s*,?\s*or\s*\}|(?<=\s)or(?=\s))\s*")
_AND = re.compile(r"\s*(?:\\(?:land|wedge)(?![a-zA-Z])|\\text\s*\{\s*,?\s*and\s*\}|(?<=\s)and(?=\s))\s*")
_RELATION = re.compile(r"\s*(<=|>=|[<>]|\\(?:leqslant|geqslant|leq?|geq?|lt|gt)(?![a-zA-Z]))\s*")
_SPANNED = re.compile(r"[(\[][^()\[\],]+,[^()\[\],]+[)\]]")
_DOTS = re.compile(r"\s*(?:\\[lcd]?dots[cb]?|\.\.\.)\s*")
_MOST_LISTED = 100  # elements for which an ellipsis may stand
_WHERE = re.compile(
    r"[,\s(]*(?:\\text\s*\{[\s,(]*(?:for|if|when|where|with|provided|assuming)(?: all| any| that)?\s*\}|(?<=[,(]))\s*"
    r"([a-zA-Z])\s*(\\(?:ne|neq|not=|[gl]eq?|[gl]t)(?![a-zA-Z])|[<>])[^,;()]*\)?$"
)
_BINDS = re.compile(r"[<>,;]|\\(?:[gln]eq?|[gl]t|in|mid|cup|to)(?![a-zA-Z])|\\text\s*\{[\s,]*(?:for|if|when)")
_SIGN = re.compile(r"(\\pm|\\mp)(?![a-zA-Z])")
_SIGNS = {("\\pm", 1): "+", ("\\pm", -1): "-", ("\\mp", 1): "-", ("\\mp", -1): "+"}
_MAX_SIGNS = 3  # eight values


def round_brackets(text: str) -> str:
    """Writes the open ends of ]a, b[ with round brackets."""
    if "[" not in text and "]" not in text:
        return text

    def span(match: re.Match[str]) -> str:
        opening, inside, closing = match.groups()
        return f"{opening.replace(']', '(')}{inside}{closing.replace('[', ')')}"

    return _SPAN.sub(span, text)


def set_builder(text: str) -> str:
    r"""Replaces \{x | condition on x} by the condition, and \{f(k) | k in Z} by the formula with its parameter."""
    match = _BUILDER.fullmatch(text.strip())
    if match is None:
        return text
    element, condition = match.groups()
    if reals := _OF_THE_REALS.fullmatch(element):
        element = reals[1]
    if whole := _whole_numbers(element, condition):
        return whole
    if _INTEGRAL.match(condition):
        return f"{element}, {condition}"
    if condition.replace(" ", "").startswith(f"{element}=") and len(element) == 1:
        return condition.partition("=")[2]
    about = element.isalpha() and element in condition
    return condition if about and (_RELATION.search(condition) or "\\ne" in condition) else text


def _whole_numbers(element: str, condition: str) -> str | None:
    r"""The set \{n in Z | 1 <= n <= 4\} element by element."""
    span = _interval(condition) if _INTEGRAL.match(element) else None
    ends = re.fullmatch(r"([(\[])\s*(-?[0-9]{1,6})\s*,\s*(-?[0-9]{1,6})\s*([)\]])", span[1]) if span else None
    if ends is None or not 0 <= int(ends[3]) - int(ends[2]) < _MOST_LISTED:
        return None
    numbers = range(int(ends[2]) + (ends[1] == "("), int(ends[3]) + (ends[4] == "]"))
    return f"\\{{{', '.join(map(str, numbers))}\\}}"


def unions(text: str) -> str:
    """Writes inequalities that "or" or "and" joins as a union of intervals or as one interval."""
    alternatives = _OR.split(text)
    if len(alternatives) > 1:
        spans = [_interval(part) for part in alternatives]
        names = {span[0] for span in spans if span and span[0]}
        intervals = names or "\\cup" in text or "[" in text or "infty" in text  # else (1,2) or (3,4) may be points
        if all(spans) and intervals and len(names) <= 1:
            return r" \cup ".join(span[1] for span in spans if span)
    elif len(both := _AND.split(text)) == 2 and all(_RELATION.search(part) for part in both):
        spans = [_interval(part) for part in both]
        if spans[0] and spans[1] and spans[0][0] == spans[1][0]:
            low, high = sorted(spans, key=lambda span: r"(-\infty" not in span[1] if span else True)[::-1]
            if low and high and low[1].endswith(r"\infty)") and high[1].startswith(r"(-\infty"):
                return low[1].rpartition(",")[0] + "," + high[1].partition(",")[2]
    return text


def as_union(text: str) -> str:
    r"""(a, b), (c, d) as a union; any other text as it is."""
    parts = [part.strip() for part in split_commas(re.sub(r"\\text\s*\{\s*(?:and|or)\s*\}", ",", text))]
    return r" \cup ".join(parts) if len(parts) > 1 and all(map(_SPANNED.fullmatch, parts)) else text


def _interval(text: str) -> tuple[str, str] | None:
    """(variable, interval) of an inequality; ("", itself) of an interval; None of anything else."""
    text = text.strip().strip(",").strip()
    if _SPANNED.fullmatch(text):
        return "", text
    parts = _RELATION.split(text)
    signs = [("<" if sign in {"<", "<=", r"\lt"} or sign.startswith(r"\l") else ">") for sign in parts[1::2]]
    closed = ["=" in sign or "eq" in sign or sign in {r"\le", r"\ge"} for sign in parts[1::2]]
    terms = parts[::2]
    if any(sign == ">" for sign in signs):
        if "<" in signs:
            return None
        terms, closed = terms[::-1], closed[::-1]
    names = [i for i, term in enumerate(terms) if re.fullmatch("[a-zA-Z]", term)]
    if len(terms) not in (2, 3) or len(names) != 1 or (len(terms) == 3 and names != [1]):
        return None
    if len(terms) == 3:
        return terms[1], f"{'(['[closed[0]]}{terms[0]},{terms[2]}{')]'[closed[1]]}"
    if names == [0]:
        return terms[0], f"(-\\infty,{terms[1]}{')]'[closed[0]]}"
    return terms[1], f"{'(['[closed[0]]}{terms[0]},\\infty)"


def listed(text: str) -> str:
    r"""Writes out the integers for which an ellipsis stands, as in 1, 2, \ldots, 5."""
    dots = list(_DOTS.finditer(text))
    if len(dots) != 1:
        return text
    match = re.fullmatch(r"(\\\{|\(|\[)?\s*(.*?)\s*(\\\}|\)|\])?", text)
    assert match
    parts = [part.strip() for part in match[2].split(",")]
    place = next((i for i, part in enumerate(parts) if _DOTS.fullmatch(part)), 0)
    numbers = [part for part in parts if re.fullmatch(r"-?[0-9]{1,6}", part)]
    if place < 2 or place != len(parts) - 2 or len(numbers) != len(parts) - 1:
        return text
    *first, last = map(int, numbers)
    step = first[1] - first[0]
    even = step and all(b - a == step for a, b in itertools.pairwise(first))
    if not even or (last - first[-1]) % step or not 0 < (last - first[0]) // step < _MOST_LISTED:
        return text
    whole = ", ".join(map(str, range(first[0], last + (1 if step > 0 else -1), step)))
    return f"{match[1] or ''}{whole}{match[3] or ''}"


def semicolons(text: str) -> str:
    """Writes a list that semicolons separate with commas."""
    if ";" not in text:
        return text
    if "," not in text:
        return text.replace(";", ",")
    parts = [part.strip() for part in text.split(";")]
    return ", ".join(parts) if all(map(enclosure, parts)) else text


def without_condition(text: str) -> str:
    r"""Drops what a formula is restricted to: x+1, x \ne 1; 2x (x > 0); 5 \text{ if } x > 0."""
    match = _WHERE.search(text)
    if match is None or "\\begin" in text or not (head := text[: match.start()].strip()) or _BINDS.search(head):
        return text
    worded = "\\text" in match[0]
    return head if worded or match[1] in re.sub(r"\\[a-zA-Z]+", "", head) else text


def plus_minus(text: str) -> str:
    r"""Writes a \pm b as the two values a+b, a-b; several \pm in one element are independent, unless \mp ties them."""
    if not _SIGN.search(text):
        return text
    braces = text.startswith("\\{") and text.endswith("\\}")
    parts = split_commas(text[2:-2] if braces else text)
    values = ", ".join(value.strip() for part in parts for value in _signed(part))
    return f"\\{{{values}\\}}" if braces else values


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
