"""Judges one pair in a worker process: by phf's own parsing, or by math-verify on the whole text."""

import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
from math_verify import parse as read_text
from math_verify import verify
from math_verify.grader import should_treat_as_complex
from sympy import Basic, Expr, I, MatrixBase, Rational, Symbol, binomial, combsimp, factorial, nan, zoo
from sympy.concrete.expr_with_limits import ExprWithLimits

from phfcli.core.grading.alignment import Verdict, align, verdict
from phfcli.core.grading.answers import AS_WRITTEN, Answer, read
from phfcli.core.grading.exact import Refused, agree, as_plain, consistent, equal_numbers, plain_number, refuted

# no unit stripping, which drops variables (3t is not 3); `exact.split_unit` has removed units of measure before
_LATEX = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
_IMAGINARY = Symbol("i", real=False)  # how the parser represents i
_PRECISION = 60  # decimal digits with which math-verify evaluates a difference


def judge(gold_text: str, answer_text: str) -> Verdict:
    """Judges two normalised texts. The order matters: math-verify follows the gold's form. May raise, hang or crash."""
    if gold_text.startswith(AS_WRITTEN):
        return _judge_written(gold_text.removeprefix(AS_WRITTEN), answer_text.removeprefix(AS_WRITTEN))
    if rows := _rows(gold_text):
        return _piecewise(rows, _rows(answer_text))
    gold = parse(gold_text)
    if gold is None or gold.has(nan, zoo):
        return "bad_gold"
    answer = parse(answer_text)
    if answer is None:
        return "unreadable"
    return "equal" if _equal(gold_text, _summed(gold), answer_text, _summed(answer)) else "different"


def _summed(value: Any) -> Any:
    """A sum or product up to a letter in closed form, if it has one: its test points would take seconds."""
    whole = value.atoms(ExprWithLimits) if isinstance(value, Expr) else ()
    return value.doit() if whole and all(part.free_symbols for part in whole) else value


def _judge_written(raw_gold: str, raw_answer: str) -> Verdict:
    gold, answer = (_read(raw) for raw in (raw_gold, raw_answer))
    answer = align(gold, answer) if gold and answer else answer
    return verdict(gold, answer) or judge(gold.text if gold else "", answer.text if answer else "")


def _read(raw: str) -> Answer | None:
    try:
        return read(raw)
    except Refused:
        return None


_CASES = re.compile(r"\\begin\s*\{cases\}(.*)\\end\s*\{cases\}", re.DOTALL)
_IF = re.compile(r"\\text\s*\{[\s,]*(?:if|for|when|otherwise|else|where)[^{}]*\}")


def _rows(text: str) -> list[tuple[str, str]]:
    """The values of a function by cases, each with its condition, which is empty for "otherwise"."""
    cases = _CASES.search(text)
    rows = [line.partition("&") for line in cases[1].split("\\\\") if line.strip()] if cases else []
    return [(value.strip(" ,"), _IF.sub("", condition).strip(" ,.")) for value, _, condition in rows]


def _piecewise(gold: list[tuple[str, str]], answer: list[tuple[str, str]]) -> Verdict:
    """Two functions by cases are equal if each case of one is a case of the other, in any order."""
    if any(judge(value, value) == "bad_gold" for value, _ in gold):
        return "bad_gold"
    if not answer:
        return "unreadable"
    left = list(answer)
    for row in gold:
        same = next((other for other in left if _same(row[0], other[0]) and _condition(row[1], other[1])), None)
        if same is None:
            return "different"
        left.remove(same)
    return "different" if left else "equal"


def _condition(a: str, b: str) -> bool:
    return not a or not b or _same(a, b)  # the others' conditions say where "otherwise" is


def _same(a: str, b: str) -> bool:
    return a.replace(" ", "") == b.replace(" ", "") or (bool(a) and bool(b) and judge(a, b) == "equal")


@lru_cache(maxsize=256)
def parse(text: str) -> Any:
    """The sympy value of a normalised text, or None if the parser's grammar does not cover it."""
    if number := plain_number(text):
        return Rational(number.value.numerator, number.value.denominator)
    try:
        latex = normalize_latex(text, _LATEX)
        is_complex = should_treat_as_complex(latex)
        value = latex2sympy(latex, is_real=not is_complex, convert_degrees=False, normalization_config=None)
    except MemoryError:
        raise
    except Exception:  # the grammar's own errors have no common type
        left, _, last = text.rpartition("=")
        return parse(last) if left and not re.search("[,;<>!]", text) else None  # the left side need not be a formula
    if not isinstance(value, Basic | MatrixBase):
        return None
    return value.subs(_IMAGINARY, I) if is_complex and value.has(_IMAGINARY) else value


def _equal(gold_text: str, gold: Any, answer_text: str, answer: Any) -> bool:
    if _is_constant(gold) and _is_constant(answer):
        same = _equal_constants(gold_text, gold, answer_text, answer)
        if same is not None:
            return same
    elif _has_factorials(gold, answer) and combsimp(gold / answer) == 1:
        return True  # before test points, whose factorials take minutes at many digits
    elif isinstance(gold, Expr) and isinstance(answer, Expr) and refuted(gold, answer):
        return False  # faster than math-verify, which would simplify the difference
    accepted: bool = verify(
        gold,
        answer,
        numeric_precision=_PRECISION,
        allow_set_relation_comp=True,  # x >= 0 is [0, oo), whichever of the two is the gold
        timeout_seconds=None,
        raise_on_error=True,
    )
    return accepted and consistent(gold, answer)


def _has_factorials(a: Any, b: Any) -> bool:
    return isinstance(a, Expr) and isinstance(b, Expr) and (a.has(factorial, binomial) or b.has(factorial, binomial))


def _is_constant(value: Any) -> bool:
    return isinstance(value, Expr) and bool(value.is_number)


def _equal_constants(gold_text: str, gold: Expr, answer_text: str, answer: Expr) -> bool | None:
    """Compares constants to 60 digits, or by the rounding rule if one side is written as a decimal."""
    written = plain_number(gold_text), plain_number(answer_text)
    if any(number and number.digits for number in written):
        a, b = written[0] or as_plain(gold), written[1] or as_plain(answer)
        if a and b:
            return agree(a, b)
    return equal_numbers(gold, answer)


_NUMBER = re.compile(r"\s*-?[0-9][0-9,.]*\s*")
_MARKED = re.compile(r"\$|\\\(|\\\[|\\boxed")  # marks where its mathematics is


def judge_whole_text(gold_text: str, text: str) -> str:
    """The verdict, a space, and the answer that math-verify has parsed. May raise, hang or crash."""
    gold = read_text(_delimited(gold_text), parsing_timeout=None)
    if not gold:
        return "bad_gold"
    answer = read_text(text, parsing_timeout=None)
    if not answer:
        return "no_answer"
    verdict = "equal" if verify(gold, answer, timeout_seconds=None) else "different"
    return f"{verdict} {answer[-1]}"


def _delimited(gold: str) -> str:
    """The gold as math-verify's README wants it: a formula between dollar signs."""
    return gold if _NUMBER.fullmatch(gold) or _MARKED.search(gold) else f"${gold}$"
