"""Writes an answer in the notation of its gold, where a problem leaves the notation open: letters, brackets, commas."""

import re
from dataclasses import replace
from itertools import permutations
from typing import Literal

from phfcli.core.grading.answers import Answer, decide, read
from phfcli.core.grading.exact import CHANGING, plain_number
from phfcli.core.grading.sets import as_union
from phfcli.core.grading.spelling import spelled_number

Verdict = Literal["equal", "different", "bad_gold", "unreadable", "no_answer"]

_LETTER = r"(?:(?<![a-zA-Z\\])|(?<=\\pi)|(?<=\\pi )){}(?![a-zA-Z])"
_CONSTANT_NAMES = frozenset("KkcD")
_CONSTANT = re.compile(r"(?:(?<=\+)|^)\s*([A-Za-z])\s*(?=$|\+)")
_FACTOR = re.compile(r"(?<![a-zA-Z\\])([A-Za-z](?:_\{?[0-9]\}?)?)\s*(?=e\s*\^|\\(?:exp|sin|cos)(?![a-zA-Z]))")
_PERIOD = re.compile(
    r"\\pi\s*[jklmn](?![a-zA-Z])|(?<![a-zA-Z\\])[jklmn]\s*(?:\\cdot\s*)?\\pi|\\circ\s*(?:\\cdot\s*)?[jklmn]|[jklmn]\s*(?:\\cdot\s*)?[0-9]+\s*\^\s*\{?\\circ"
)
_NAMED = re.compile(r"^\s*[a-zA-Z]\s*=")
_FUNCTION = re.compile(r"\s*(?:([a-zA-Z])\s*\(\s*([a-z])\s*\)|y)\s*=(?=[^=]*$)")
_DECIMAL_COMMA = re.compile(r"-?(?:0,[0-9]+|[0-9]+,(?:[0-9]{1,2}|[0-9]{4,}))")
_THOUSANDS = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*[kK]")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_SENTENCE = re.compile(  # words, one number, words; a short word without any others may be a product of letters
    r"((?:[A-Za-z']+ )*[A-Za-z']{2,} |)(-?[0-9]+(?:\.[0-9]+)?)((?: [A-Za-z']{4,}(?: [A-Za-z']+)*)?)\.?"
)
_NEARLY = re.compile(r"\s*\\(?:approx|simeq)(?![a-zA-Z])\s*")
_COLUMN = re.compile(
    r"\\begin\s*\{[pbm]?(?:small)?matrix\}([^&]*)\\end\s*\{[pb]?(?:small)?matrix\}|[(\[]\s*\\begin\s*\{matrix\}([^&]*)\\end\s*\{matrix\}\s*[)\]]"
)
_POINT = re.compile(r"[A-Z]'?\s*(?:=\s*)?(\([^()]*,[^()]*\))")
_ROWS = re.compile(r"\[\[([^\[\]]*(?:\],\[[^\[\]]*)*)\]\]")
_TUPLE = re.compile(r"\(([^()\[\]]*,[^()\[\]]*)\)")


def verdict(gold: Answer | None, answer: Answer | None) -> Verdict | None:
    """What can be said of a pair without a parser, else None. An empty box counts before an unusable gold."""
    if answer is not None and not answer.text:
        return "no_answer"
    if gold is None or not gold.text:
        return "bad_gold"
    if answer is None:
        return "unreadable"
    if gold.unread or answer.unread:
        return None
    equal = decide(gold, answer)
    return None if equal is None else "equal" if equal else "different"


def align(gold: Answer, answer: Answer) -> Answer:
    """The answer as the gold would have it: what differs by notation alone is spelled alike."""
    if gold.text == answer.text or gold.unread or answer.unread:
        return answer
    for step in (_number, _exact_side, _function_name, _brackets, _rename_letters):
        answer = step(gold, answer)
    return answer


def _number(gold: Answer, answer: Answer) -> Answer:
    """Where the gold is one number: 2,5 is 2.5, 25k is 25000, and of a sentence the number in it counts."""
    if gold.number is None or answer.number is not None:
        return answer
    text = answer.text.strip()
    if gold.number.value.denominator > 1 and _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    elif thousands := _THOUSANDS.fullmatch(text):
        text = rf"{thousands[1]} \times 10^3"
    elif sentence := _SENTENCE.fullmatch(" ".join(_TEXT.sub(r" \1 ", text).split())):
        told = any(map(spelled_number, f"{sentence[1]} {sentence[3]}".split()))  # another number, in words
        text = (
            text if told or re.search(f"{CHANGING}", sentence[1]) or re.search(CHANGING, sentence[3]) else sentence[2]
        )
    return replace(answer, text=text, number=plain_number(text)) if text != answer.text.strip() else answer


def _exact_side(gold: Answer, answer: Answer) -> Answer:
    r"""Of \sqrt{2} \approx 1.414 the rounded side where the gold is a decimal, else the exact one."""
    sides = _NEARLY.split(answer.text)
    if len(sides) != 2 or _NEARLY.search(gold.text):
        return answer
    decimal = gold.number is not None and gold.number.digits > 0
    return replace(read(sides[decimal]), unit=answer.unit)


def _function_name(gold: Answer, answer: Answer) -> Answer:
    """y = ..., f(x) = ... and f(t) = ... name the same function."""
    ours, theirs = _FUNCTION.match(gold.text), _FUNCTION.match(answer.text)
    if not ours or not theirs or ours[0].replace(" ", "") == theirs[0].replace(" ", ""):
        return answer
    body = answer.text[theirs.end() :]
    wanted, given = ours[2] or "x", theirs[2] or "x"
    if wanted != given and (wanted in _letters(body) or (ours[1] or "f") != (theirs[1] or "f")):
        return answer
    body = re.sub(_LETTER.format(given), f" {wanted} ", body)
    return replace(answer, text=gold.text[: ours.end()] + body) if wanted in _letters(body) else answer


def _brackets(gold: Answer, answer: Answer) -> Answer:
    """A column is a point, and a list of intervals is their union, where the gold is one."""
    if _TUPLE.fullmatch(gold.text) and (labelled := _POINT.fullmatch(answer.text)):
        return replace(answer, text=labelled[1])
    if "matrix" in gold.text and (rows := _ROWS.fullmatch(answer.text.replace(" ", ""))):
        inside = rows[1].replace("],[", r" \\ ").replace(",", " & ")
        return replace(answer, text=rf"\begin{{pmatrix}}{inside}\end{{pmatrix}}")
    column, point = _COLUMN.fullmatch(answer.text), _TUPLE.fullmatch(answer.text)
    if column and _TUPLE.fullmatch(gold.text):
        parts = [part.strip() for part in (column[1] or column[2] or "").split("\\\\") if part.strip()]
        return replace(answer, text=f"({', '.join(parts)})")
    if point and _COLUMN.fullmatch(gold.text):
        inside = point[1].replace(",", r" \\ ")
        return replace(answer, text=rf"\begin{{pmatrix}}{inside}\end{{pmatrix}}")
    return replace(answer, text=as_union(answer.text)) if "\\cup" in gold.text else answer


def _rename_letters(gold: Answer, answer: Answer) -> Answer:
    """The answer with the gold's names for constants of integration and for an integer parameter (k in Z)."""
    if "C" in _CONSTANT.findall(gold.text) and len(re.findall(r"C_", answer.text)) == 1 and "_" not in gold.text:
        answer = replace(answer, text=re.sub(r"C_\s*(?:\{[01]\}|[01])", "C", answer.text))
    if renamed := _factors(gold.text, answer.text):
        return replace(answer, text=renamed)
    ours, theirs = (_letters(_NAMED.sub("", text)) for text in (gold.text, answer.text))
    new, wanted = theirs - ours, ours - theirs
    if len(new) != 1 or len(wanted) != 1:
        return answer
    [old], [name] = new, wanted
    sums = "+" in gold.text and "+" in answer.text
    constants = sums and name == "C" and "C" in _CONSTANT.findall(gold.text) and old in _CONSTANT.findall(answer.text)
    parameters = (gold.parameter in (None, name)) and (answer.parameter in (None, old))
    periods = bool(_PERIOD.search(gold.text)) and bool(_PERIOD.search(answer.text)) and {old, name} <= set("jklmn")
    if (constants and old in _CONSTANT_NAMES) or (parameters and (gold.parameter or answer.parameter or periods)):
        return replace(answer, text=re.sub(_LETTER.format(old), f" {name} ", answer.text))
    return answer


def _factors(gold: str, answer: str) -> str | None:
    """C e^x and A e^x: the answer with the gold's constants before its exponentials, sines and cosines."""
    wanted, given = (list(dict.fromkeys(_FACTOR.findall(text))) for text in (gold, answer))
    same = len(wanted) == len(given) and wanted != given
    if not same or not all(name[0] == "C" for name in wanted) or not all(name[0] in "ABCDKkc" for name in given):
        return None
    order = next((o for o in permutations(given) if _same_shape(gold, wanted, answer, list(o))), tuple(given))
    return _renamed(answer, list(order), wanted)


def _same_shape(gold: str, wanted: list[str], answer: str, given: list[str]) -> bool:
    return _renamed(answer, given, wanted).replace(" ", "") == gold.replace(" ", "")


def _renamed(text: str, given: list[str], wanted: list[str]) -> str:
    new = dict(zip(given, wanted, strict=True))
    return _FACTOR.sub(lambda match: new.get(match[1], match[1]), text)


def _letters(text: str) -> set[str]:
    return set(re.findall(_LETTER.format("([a-zA-Z])"), text))
