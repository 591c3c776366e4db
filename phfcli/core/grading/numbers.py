r"""Plain numbers, read exactly and without sympy: 073, 27.0, 4.5\times10^{33}, -3/4, \frac{1}{3}, 12\%, 0.\overline{3}.

A decimal is the rational number that it spells. It may also stand for a value that it rounds, see `agree`.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MIN_DIGITS = 6  # significant digits from which a decimal may stand for the value that it rounds
_MAX_EXPONENT = 2000

_DECIMAL = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_POWER = r"(?:\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{\s*([+-]?[0-9]{1,4})\s*\}|([0-9])))?"
_SCIENTIFIC = re.compile(rf"([+-]?)\s*({_DECIMAL}){_POWER}\s*(\\?%)?")
_FRACTION = re.compile(
    rf"([+-]?)\s*(?:\\frac\s*\{{\s*(-?{_DECIMAL})\s*\}}\s*\{{\s*({_DECIMAL})\s*\}}|({_DECIMAL})\s*/\s*({_DECIMAL}))"
)
_REPEATING = re.compile(r"([+-]?)\s*([0-9]*)\.([0-9]*)\\overline\s*\{([0-9]+)\}")


@dataclass(frozen=True)
class PlainNumber:
    """An exact value; for a decimal also its significant digits as written and the unit of its last place."""

    value: Fraction
    digits: int = 0  # 0: not a decimal (an integer or a fraction)
    last_place: Fraction = Fraction(0)


def plain_number(text: str) -> PlainNumber | None:
    """The number that the whole of `text` (normalised, at most some thousand characters) spells, or None."""
    text = text.strip()
    if match := _SCIENTIFIC.fullmatch(text):
        sign, mantissa, braced, single, percent = match.groups()
        return _scientific(sign, mantissa, int(braced or single or 0), percent is not None)
    if match := _FRACTION.fullmatch(text):
        sign, *parts = match.groups()
        top, bottom = (Fraction(part.rstrip(".")) for part in parts if part is not None)
        return PlainNumber(-top / bottom if sign == "-" else top / bottom) if bottom else None
    if match := _REPEATING.fullmatch(text):
        return _repeating(*match.groups())
    return None


def _repeating(sign: str, whole: str, places: str, period: str) -> PlainNumber:
    once = int(f"{whole}{places}" or 0)
    value = Fraction(int(f"{whole}{places}{period}") - once, 10 ** len(places) * (10 ** len(period) - 1))
    return PlainNumber(-value if sign == "-" else value)


def _scientific(sign: str, mantissa: str, exponent: int, percent: bool) -> PlainNumber | None:
    if abs(exponent) > _MAX_EXPONENT:
        return None
    whole, _, places = mantissa.partition(".")
    last_place = Fraction(10) ** (exponent - len(places)) / (100 if percent else 1)
    value = int(whole + places) * last_place
    digits = len((whole + places).lstrip("0")) if places or exponent else 0
    return PlainNumber(-value if sign == "-" else value, digits, last_place)


def rounds(decimal: PlainNumber, value: Fraction) -> bool:
    """Whether `decimal` is `value` correctly rounded (to half a unit of its last place), to MIN_DIGITS or more."""
    return decimal.digits >= MIN_DIGITS and 2 * abs(decimal.value - value) <= decimal.last_place


def agree(a: PlainNumber, b: PlainNumber) -> bool:
    """Equal exactly, or the coarser one is a decimal that rounds the other; two integers or fractions only exactly."""
    if a.value == b.value:
        return True
    if a.digits and b.digits:
        coarse, fine = (a, b) if a.last_place > b.last_place else (b, a)
        return coarse.last_place > fine.last_place and rounds(coarse, fine.value)
    return rounds(a, b.value) or rounds(b, a.value)
