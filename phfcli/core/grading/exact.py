"""Exact comparison of numbers and constants, units of measure, and the limits on what may reach the parser."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import sympy
from sympy import Add, Eq, Expr, Float, Integer, Interval, MatrixBase, Mul, N, Pow, Rational, Symbol, Tuple
from sympy.concrete.expr_with_limits import ExprWithLimits

MAX_CHARS = 2000
MAX_SHORT = 300  # characters that the calling process reads; what is longer is read in a worker, under its clock
MAX_DEPTH = 20  # nested brackets: the parser's time doubles every few levels
MAX_FACTORIAL = 5000
MAX_TOWER = 10_000  # the largest c^d in b^{c^d}

_OPEN = r"[{(\s]*"
_TOWER = re.compile(rf"(?=(?<![0-9])[0-9]+[)}}\s]*\^{_OPEN}([0-9]+)\s*\^{_OPEN}([0-9]+))")
_EXPONENT = re.compile(r"\^[{(\s+-]*[0-9]{6,}")
_FACTORIAL = re.compile(r"([0-9]+)[)}\s]*!")
_GROUP_FACTORIAL = re.compile(r"\^[^!+]*[)}]\s*!|![)}\s]*!")
_DIGIT_RUNS = re.compile(r"[0-9]{1000}")
_NEIGHBOURS = re.compile(r"(?<![\w.}\\])[0-9][0-9.]*\s+[0-9.]")
_TAKES_ARGUMENTS = re.compile(r"(?:[_^]|\\(?:frac|binom|sqrt|log))\s*$")


class Refused(Exception):  # noqa: N818 - a refusal is an outcome, not a fault
    """The text must not be evaluated; the message says why."""


def check(text: str) -> None:
    """Raises Refused for a normalised text that must not reach the parser: it would take too long or mislead it."""
    if _depth(text) > MAX_DEPTH:
        raise Refused("nested too deeply")
    if _DIGIT_RUNS.search(text):
        raise Refused("too many digits")
    if _EXPONENT.search(text) or any(_too_tall(int(c), int(d)) for c, d in _TOWER.findall(text)):
        raise Refused("an exponent too large")
    if _GROUP_FACTORIAL.search(text) or any(_above(n, MAX_FACTORIAL) for n in _FACTORIAL.findall(text)):
        raise Refused("a factorial too large")
    for match in _NEIGHBOURS.finditer(text):
        # the parser reads "6 30" as the mixed number 36
        if not _TAKES_ARGUMENTS.search(text, 0, match.start()):
            raise Refused("two numbers side by side")


def _above(digits: str, limit: int) -> bool:
    return len(digits) > 12 or int(digits) > limit


def _too_tall(base: int, exponent: int) -> bool:
    return exponent > 20 or base**exponent > MAX_TOWER if base > 1 else False


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in re.findall(r"[{}()\[\]]", text):
        depth += 1 if bracket in "{([" else -1
        deepest = max(deepest, depth)
    return deepest


MIN_DIGITS = 6  # a decimal of at least so many significant digits equals the exact value that it rounds
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
    """An exact value; for a decimal also the number of its significant digits and the value of its last place."""

    value: Fraction
    digits: int = 0  # 0: not a decimal (an integer or a fraction)
    last_place: Fraction = Fraction(0)


def plain_number(text: str) -> PlainNumber | None:
    """The number that a normalised text spells as a whole, or None."""
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
    """Whether `decimal` is `value` rounded correctly, to at least MIN_DIGITS significant digits."""
    return decimal.digits >= MIN_DIGITS and 2 * abs(decimal.value - value) <= decimal.last_place


def agree(a: PlainNumber, b: PlainNumber) -> bool:
    """Whether two numbers are equal, or the coarser one is a decimal that rounds the other.

    Two integers or fractions are equal only exactly.
    """
    if a.value == b.value:
        return True
    if a.digits and b.digits:
        coarse, fine = (a, b) if a.last_place > b.last_place else (b, a)
        return coarse.last_place > fine.last_place and rounds(coarse, fine.value)
    return rounds(a, b.value) or rounds(b, a.value)


CHANGING = (  # words that make another value of the number beside them
    r"(?i:\b(?:not?|cannot|none|nothing|neither|nor|never|every|each|if|at (?:least|most)|less|more|fewer|than|larger"
    r"|smaller|other|up to|under|over|above|below|between|except|without|or|half|twice|double|triple|times|squared"
    r"|cubed|plus|minus|factorial|point|mod|modulo|base|dozen|hundreds?|thirds?|tenths?|hundredths?|\w*n't"
    r"|(?<!total )of(?=[\s,:]*$))\b)"
)
_CHANGED = re.compile(CHANGING)


def ratio(text: str) -> list[Fraction] | None:
    """The parts of a ratio of three numbers or more, relative to the first one that is not 0; else None."""
    parts = [plain_number(part) for part in text.split(":")]
    values = [part.value for part in parts if part is not None]
    first = next(filter(None, values), None)
    return [value / first for value in values] if first and 3 <= len(values) == len(parts) else None


_NAMES = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre",
    "inch": "in inches", "foot": "ft feet", "yard": "yd", "mile": "mi", "g": "gram", "kg": "kilogram",
    "mg": "milligram", "pound": "lb", "ounce": "oz", "ml": "milliliter millilitre", "l": "liter litre",
    "second": "s sec", "minute": "min", "hour": "h hr", "day": "", "week": "", "month": "", "year": "yr",
    "degree": "deg", "radian": "rad", "dollar": "usd", "cent": "", "euro": "eur",
    "yen": "", "rupee": "", "mile/hour": "mph", "km/hour": "kmh kph", "newton": "", "joule": "", "watt": "",
}  # fmt: skip
_CANONICAL = {alias: unit for unit, aliases in _NAMES.items() for alias in (unit, *aliases.split())}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_COUNTED = {"unit", "integer", "number"}  # words that stand for no unit of their own, readable without \text

_DEGREE = re.compile(r"\s*\^\s*(?:\{\s*)?\\(?:circ|degree)(?![a-zA-Z])\s*\}?\s*(?:\\text\s*\{\s*([CF])\s*\}|([CF]))?$")
_LABEL = re.compile(r"\s*\\text\s*\{([^{}]*)\}\s*(?:\^\s*\{?\s*([23])\s*\}?)?$")
_BARE = re.compile(
    r"(?<=[0-9}])\s*([a-zA-Z]{2,}(?:[ .]+[a-zA-Z]{2,}|[ .]*/ *[a-zA-Z]+)*)\s*(?:\^\s*\{?\s*([23])\s*\}?)?$"
)
_JOINS = re.compile(r"\s*(?:or|and)\b")
_VALUE = re.compile(r"[0-9]|\\pi(?![a-zA-Z])")


def split_unit(text: str) -> tuple[str, str | None]:
    """(text without its unit of measure, canonical unit or None). The unit stays if no digit stands before it."""
    if match := _DEGREE.search(text):
        kind = match[1] or match[2]
        return _rest(text, match, f"degree {kind}" if kind else "degree")
    if (match := _LABEL.search(text)) and not _JOINS.match(match[1]):
        return _rest(text, match, canonical(match[1], match[2]))
    if (match := _BARE.search(text)) and (canonical(match[1], match[2]) or _counted(match[1])):
        return _rest(text, match, canonical(match[1], match[2]))
    return text, None


def canonical(words: str, power: str | None = None) -> str | None:
    """The canonical name of a unit of measure: cm^2 for "square centimeters" and for "cm" with power 2; else None."""
    if len(parts := re.split(r"\s*/\s*|\s+per\s+", words.strip())) == 2:
        below, squared, _ = re.sub(r"\^\s*\{?\s*2\s*\}?$|\s+squared$", "^", parts[1]).partition("^")
        units = [canonical(parts[0]), canonical(below, "2" if squared else power)]
        return f"{units[0]}/{units[1]}" if all(units) else None
    *adjectives, noun = words.lower().replace(".", " ").split() or [""]
    unit = _CANONICAL.get(noun) or _CANONICAL.get(noun.removesuffix("s"))
    if unit is None or any(word not in _POWERS for word in adjectives):
        return None
    exponent = _POWERS[adjectives[-1]] if adjectives else int(power or 1)
    return unit if exponent == 1 else f"{unit}^{exponent}"


_CURRENCIES = {
    "dollar": re.compile(r"\\\$|(?<![a-zA-Z])(?:USD(?![a-zA-Z])|US(?=\s*\$))"),
    "euro": re.compile(r"€|\\euro(?![a-zA-Z])|(?<![a-zA-Z])EUR(?![a-zA-Z])"),
    "pound": re.compile(r"£|\\pounds(?![a-zA-Z])|(?<![a-zA-Z])GBP(?![a-zA-Z])"),
    "yen": re.compile("[¥円]"),
    "rupee": re.compile(r"₹|(?<![a-zA-Z])(?:Rs|INR)(?![a-zA-Z])"),
}


def currency(raw: str) -> str | None:
    r"""The unit that the currency signs of a raw text name; None without one, or with several. A bare $ names none."""
    text = raw.strip()
    delimited = len(text) > 4 and text.startswith("\\$") and text.endswith("\\$")
    named = [unit for unit, pattern in _CURRENCIES.items() if pattern.search(text)]
    return named[0] if len(named) == 1 and not delimited else None


def _counted(words: str) -> bool:
    *adjectives, noun = words.lower().split()
    return noun.removesuffix("s") in _COUNTED and all(word in _POWERS for word in adjectives)


def _rest(text: str, match: re.Match[str], unit: str | None) -> tuple[str, str | None]:
    if unit is None and _CHANGED.search(match[0]):
        return text, None
    head = text[: match.start()].rstrip()
    return (head, unit) if _VALUE.search(head) else (text, None)


_DIGITS = 60
_MOST_DIGITS = 2000
_MIN_PRECISION = 150  # bits; evalf leaves less than these 45 digits only where terms cancel
_TOLERANCE = Rational(1, 10**45)
_MAX_POWER = 10_000
_STARTS = (Rational(7, 11), Rational(17, 13), Rational(103, 7))


def as_plain(value: Expr) -> PlainNumber | None:
    """A real constant as a plain number: a Float as the decimal that it spells, everything else to 60 digits."""
    if isinstance(value, Float):
        _, digits, exponent = Decimal(str(value)).normalize().as_tuple()
        if not isinstance(exponent, int):
            return None  # an infinity
        exact = exponent >= 0  # 27.0
        return PlainNumber(Fraction(str(value)), 0 if exact else len(digits), Fraction(10) ** exponent)
    if isinstance(value, Rational):
        return PlainNumber(Fraction(int(value.p), int(value.q)))
    number = N(_rational(value), _DIGITS)
    return PlainNumber(Fraction(str(number))) if isinstance(number, Float) and number.is_finite else None


def equal_numbers(a: Expr, b: Expr) -> bool | None:
    """Whether two constants are equal, where a decimal equals the value that it rounds; None if one has no value."""
    if a == b:
        return True
    if isinstance(a, Float) or isinstance(b, Float):
        plain_a, plain_b = as_plain(a), as_plain(b)
        if plain_a and plain_b:
            return agree(plain_a, plain_b)
    return _equal_exactly(_rational(a), _rational(b))


def refuted(a: Expr, b: Expr) -> bool:
    """Whether two expressions differ at every fixed test point where both have a value, and at one at least."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if not symbols:
        return equal_numbers(a, b) is False
    if _spells(a, b) or _spells(b, a):
        return False
    a, b = _rational(a), _rational(b)
    outcomes = [_equal_exactly(a.subs(point), b.subs(point)) for point in _points(symbols)]
    return False in outcomes and True not in outcomes


def consistent(a: Any, b: Any) -> bool:
    """Whether an exact comparison of the parts confirms, or cannot refute, an equality that math-verify accepted."""
    a, b = _right_side(a, b), _right_side(b, a)
    if isinstance(a, MatrixBase) and isinstance(b, MatrixBase):
        return a.shape == b.shape and all(consistent(x, y) for x, y in zip(a.flat(), b.flat(), strict=True))
    if isinstance(a, Expr) and isinstance(b, Expr):
        return not refuted(a, b)
    parts, others = _parts(a), _parts(b)
    if parts and len(parts) == len(others):
        return _matched(parts, others)
    return True


def _spells(a: Expr, b: Expr) -> bool:
    """Whether a is one symbol and b a product of symbols: abc and a*b*c, whose letters math-verify compares."""
    return isinstance(a, Symbol) and all(isinstance(x, Symbol) or x == sympy.E for x in Mul.make_args(b))


def _points(symbols: Sequence[Symbol]) -> Iterator[dict[Symbol, Expr]]:
    for start in _STARTS:
        yield {symbol: start + Rational(i, 3 + i) for i, symbol in enumerate(symbols)}


def _matched(parts: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether the parts can be paired so that each pair is consistent; math-verify judges their order."""
    left = list(others)
    for part in parts:
        match = next((i for i, other in enumerate(left) if consistent(part, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, Interval):
        return (value.start, value.end)
    return value.args if isinstance(value, Tuple | sympy.FiniteSet | sympy.Union) else ()


def _right_side(a: Any, b: Any) -> Any:
    return a.rhs if isinstance(a, Eq) and (not isinstance(b, Eq) or a.lhs == b.lhs) else a


def _rational(value: Expr) -> Expr:
    """Replaces each decimal in the expression by the rational that it spells, and evaluates the arithmetic."""
    return _arithmetic(value.xreplace({x: Rational(str(x)) for x in value.atoms(Float)}))


def _arithmetic(value: Expr) -> Expr:
    """Evaluates sums, products and modest powers: evalf takes exponential time in the depth of unevaluated ones."""
    if not isinstance(value, Add | Mul | Pow):
        return value
    parts = [_arithmetic(part) for part in value.args]
    if isinstance(value, Pow) and isinstance(parts[1], Integer) and abs(parts[1]) > _MAX_POWER:
        return Pow(*parts, evaluate=False)
    return value.func(*parts)


def _equal_exactly(a: Expr, b: Expr) -> bool | None:
    if a == b:
        return True
    if isinstance(a, Rational) and isinstance(b, Rational):
        return False
    parts_a, parts_b = N(a, _DIGITS).as_real_imag(), N(b, _DIGITS).as_real_imag()
    if any(part.has(sympy.nan, sympy.zoo) or not part.is_number for part in (*parts_a, *parts_b)):
        return None
    if any(part.is_infinite for part in (*parts_a, *parts_b)):
        return bool(parts_a == parts_b)
    size = max(abs(part) for part in (*parts_a, *parts_b))
    distance = max(abs(x - y) for x, y in zip(parts_a, parts_b, strict=True))
    if distance <= size * _TOLERANCE:
        if a.is_rational and b.is_rational:
            return bool(a.doit() == b.doit())  # 1 + 1/2004! and 1 + 1/2006!
        return not _differ_far_on(a, b)
    if any(_cancelled(part, size) for part in (*parts_a, *parts_b)):
        return bool(sympy.simplify(a - b) == 0)
    return False


def _differ_far_on(a: Expr, b: Expr) -> bool:
    """Whether values that agree to 45 digits differ before the 2,000th; evalf adds digits until some are certain."""
    difference = a - b
    digits = _DIGITS if difference.has(ExprWithLimits) else _MOST_DIGITS  # a sum or an integral is slow at many
    parts = N(difference, 2, maxn=digits).as_real_imag()
    return any(isinstance(part, Float) and part._prec > 1 for part in parts)


def _cancelled(part: Expr, size: Expr) -> bool:
    """Whether evalf lost the digits of a part that matters."""
    return isinstance(part, Float) and part._prec < _MIN_PRECISION and bool(abs(part) > size * _TOLERANCE)
