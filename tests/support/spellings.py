"""Numbers and forms with known values, in many spellings: what a random test of the grader is made of."""

import random
from fractions import Fraction

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_FULL_WIDTH = {ord(character): chr(ord(character) + 0xFEE0) for character in "0123456789"}
_VULGAR = {Fraction(1, 2): "½", Fraction(1, 3): "⅓", Fraction(2, 3): "⅔", Fraction(1, 4): "¼", Fraction(3, 4): "¾"}


def number(draw: random.Random) -> Fraction:
    """An integer, a fraction or a decimal of the kinds that benchmarks ask for."""
    kind = draw.random()
    if kind < 0.4:
        return Fraction(draw.randint(-20, 1500))
    if kind < 0.8:
        return Fraction(draw.randint(-60, 60), draw.randint(2, 30))
    return Fraction(draw.randint(-5000, 5000), draw.choice((10, 100, 1000)))


def plain(value: Fraction) -> str:
    """A number as a gold answer has it."""
    return str(value.numerator) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def spelling(value: Fraction, draw: random.Random) -> str:
    """One way to write a number, with one way to wrap it."""
    text = draw.choice(_integer(value, draw) if value.denominator == 1 else _fraction(value, draw))
    wraps = ["{}", "{}", "{}", "x = {}", "${}$", r"\text{{The answer is }} {}", "Final answer: {}", " {}. "]
    if "," not in text:  # (1,451) is a pair
        wraps.append(r"\left({}\right)")
    return draw.choice(wraps).format(text)


def nearly(value: Fraction, draw: random.Random) -> Fraction:
    """Another number that is easily mistaken for it."""
    steps = (1, -1, Fraction(1, 1000), Fraction(1, 10**9), Fraction(1, value.denominator + 1))
    others = [value + step for step in steps]
    others += [value * factor for factor in (-1, 10, 100, Fraction(1, 10), Fraction(1, 100))]
    without_first = int(str(abs(value.numerator))[1:] or 0)
    others += [1 / value if value else value + 2, Fraction(without_first, value.denominator)]
    return draw.choice([other for other in others if other != value])


def root(draw: random.Random) -> tuple[str, int]:
    """A square root in some spelling, and what stands below it."""
    below = draw.randint(2, 400)
    forms = (f"√{below}", rf"\sqrt{{{below}}}", f"sqrt({below})", f"√({below})", f"{below}^{{1/2}}")
    return draw.choice(forms), below


def power(draw: random.Random) -> tuple[str, Fraction]:
    """A power in some spelling, and its value."""
    base, exponent = draw.randint(2, 12), draw.randint(-6, 9)
    raised = str(exponent).translate(_SUPERSCRIPTS)
    return draw.choice((f"{base}^{{{exponent}}}", f"{base}{raised}")), Fraction(base) ** exponent


def _integer(value: Fraction, draw: random.Random) -> list[str]:
    digits, sign = str(abs(value.numerator)), "-" if value < 0 else ""
    forms = [sign + digits, sign + digits.translate(_FULL_WIDTH), f"{sign}{digits}.0", rf"{sign}\frac{{{digits}}}{{1}}"]
    if value < 0:
        forms.append("−" + digits)
    if len(digits) > 3:
        forms += [f"{sign}{int(digits):,}", sign + f"{int(digits):,}".replace(",", r"\,")]
    times = draw.randint(2, 9)
    return [*forms, rf"\frac{{{value.numerator * times}}}{{{times}}}"]


def _fraction(value: Fraction, draw: random.Random) -> list[str]:
    top, bottom, sign = abs(value.numerator), value.denominator, "-" if value < 0 else ""
    times = draw.randint(2, 9)
    forms = [rf"{sign}\frac{{{top}}}{{{bottom}}}", f"{sign}{top}/{bottom}", rf"\frac{{{value.numerator}}}{{{bottom}}}"]
    forms.append(rf"{sign}\dfrac{{{top * times}}}{{{bottom * times}}}")
    whole, rest = divmod(top, bottom)
    if value > 0 and whole:
        forms.append(rf"{whole}\frac{{{rest}}}{{{bottom}}}")
    if value > 0 and (part := _VULGAR.get(Fraction(rest, bottom))):
        forms.append(f"{whole or ''}{part}")
    if 10**6 % bottom == 0:
        forms.append(f"{sign}{top * (10**6 // bottom) / 10**6:.6f}".rstrip("0"))
    if 100 % bottom == 0:
        forms.append(rf"{sign}{100 * top // bottom}\%")
    return forms
