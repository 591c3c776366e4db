"""Decides whether two parsed values are exactly equal, because math-verify's tolerances are too wide. In a worker.

Two numbers are compared at 60 digits, relative to their own size, so 1/2004! and 1/2006! differ; where cancellation
leaves too few digits, the difference is simplified. Of those that agree so far, rational ones are evaluated exactly;
for others up to 2,000 digits are taken to see a difference. Expressions with free symbols are compared as numbers at
three fixed points, which refutes an equality but never establishes it.
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import sympy
from sympy import Add, Eq, Expr, Float, Integer, Interval, MatrixBase, Mul, N, Pow, Rational, Symbol, Tuple
from sympy.concrete.expr_with_limits import ExprWithLimits

from phfcli.core.grading.numbers import PlainNumber, agree

_DIGITS = 60
_MOST_DIGITS = 2000
_MIN_PRECISION = 150  # bits; evalf leaves less than these 45 digits only where terms cancel
_TOLERANCE = Rational(1, 10**45)
_MAX_POWER = 10_000
_STARTS = (Rational(7, 11), Rational(17, 13), Rational(103, 7))


def as_plain(value: Expr) -> PlainNumber | None:
    """A real constant as a plain number: a Float as the decimal it spells, anything else to 60 digits."""
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
    """Whether two constants are equal; a decimal may also stand for what it rounds. None where one has no value."""
    if a == b:
        return True
    if isinstance(a, Float) or isinstance(b, Float):
        plain_a, plain_b = as_plain(a), as_plain(b)
        if plain_a and plain_b:
            return agree(plain_a, plain_b)
    return _equal_exactly(_rational(a), _rational(b))


def refuted(a: Expr, b: Expr) -> bool:
    """Whether two expressions differ: at no fixed point of their symbols where both have a value are they equal."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    if not symbols:
        return equal_numbers(a, b) is False
    if _spells(a, b) or _spells(b, a):
        return False
    a, b = _rational(a), _rational(b)
    found = [_equal_exactly(a.subs(point), b.subs(point)) for point in _points(symbols)]
    return False in found and True not in found


def consistent(a: Any, b: Any) -> bool:
    """False if an equality that math-verify accepted is refuted by an exact comparison of the parts."""
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
    """Whether a is one symbol and b a product of them: math-verify compares the letters of abc and a*b*c."""
    return isinstance(a, Symbol) and all(isinstance(x, Symbol) or x == sympy.E for x in Mul.make_args(b))


def _points(symbols: Sequence[Symbol]) -> Iterator[dict[Symbol, Expr]]:
    for start in _STARTS:
        yield {symbol: start + Rational(i, 3 + i) for i, symbol in enumerate(symbols)}


def _matched(parts: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether each part has an equal of its own; the order is math-verify's to judge."""
    left = list(others)
    for part in parts:
        found = next((i for i, other in enumerate(left) if consistent(part, other)), None)
        if found is None:
            return False
        del left[found]
    return True


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, Interval):
        return (value.start, value.end)
    return value.args if isinstance(value, Tuple | sympy.FiniteSet | sympy.Union) else ()


def _right_side(a: Any, b: Any) -> Any:
    return a.rhs if isinstance(a, Eq) and (not isinstance(b, Eq) or a.lhs == b.lhs) else a


def _rational(value: Expr) -> Expr:
    """Each decimal in the expression as the rational that it spells, and the arithmetic done."""
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
    """Whether values that agree to 45 digits differ before the 2,000th: evalf takes digits until it finds a few."""
    difference = a - b
    digits = _DIGITS if difference.has(ExprWithLimits) else _MOST_DIGITS  # a sum or an integral is slow at many
    parts = N(difference, 2, maxn=digits).as_real_imag()
    return any(isinstance(part, Float) and part._prec > 1 for part in parts)


def _cancelled(part: Expr, size: Expr) -> bool:
    """Whether evalf lost the digits of a part that matters."""
    return isinstance(part, Float) and part._prec < _MIN_PRECISION and bool(abs(part) > size * _TOLERANCE)
