r"""Units of measure: taken off the end of an answer, so that 5, 5 cm and 5\text{ cm} agree and 5 m does not.

A unit may be left out, since the problem names it; it may not be another one. Nothing is converted. A word that is no
unit of measure (12\text{ students}) is dropped without a meaning.
"""

import re

_NAMES = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre",
    "inch": "in inches", "foot": "ft feet", "yard": "yd", "mile": "mi", "g": "gram", "kg": "kilogram",
    "mg": "milligram", "pound": "lb", "ounce": "oz", "ml": "milliliter millilitre", "l": "liter litre",
    "second": "s sec", "minute": "min", "hour": "h hr", "day": "", "week": "", "month": "", "year": "yr",
    "degree": "deg", "radian": "rad", "dollar": "", "cent": "", "mph": "", "km/h": "kmh kph", "m/s": "",
}  # fmt: skip
_CANONICAL = {alias: unit for unit, aliases in _NAMES.items() for alias in (unit, *aliases.split())}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_COUNTED = {"unit", "integer", "number"}  # words that stand for no unit of their own, readable without \text

_DEGREE = re.compile(r"\s*\^\s*(?:\{\s*)?\\(?:circ|degree)(?![a-zA-Z])\s*\}?\s*(?:\\text\s*\{\s*([CF])\s*\}|([CF]))?$")
_LABEL = re.compile(r"\s*\\text\s*\{([^{}]*)\}\s*(?:\^\s*\{?\s*([23])\s*\}?)?$")
_BARE = re.compile(r"(?<=[0-9}])\s*([a-zA-Z]{2,}(?:[ /.]+[a-zA-Z]{2,})*)\s*(?:\^\s*\{?\s*([23])\s*\}?)?$")
_JOINS = re.compile(r"\s*(?:or|and)\b")
_VALUE = re.compile(r"[0-9]|\\pi(?![a-zA-Z])")


def split_unit(text: str) -> tuple[str, str | None]:
    """(text without its unit, canonical unit or None). A text that holds no digit before the label keeps it."""
    if match := _DEGREE.search(text):
        kind = match[1] or match[2]
        return _rest(text, match, f"degree {kind}" if kind else "degree")
    if (match := _LABEL.search(text)) and not _JOINS.match(match[1]):
        return _rest(text, match, canonical(match[1], match[2]))
    if (match := _BARE.search(text)) and (canonical(match[1], match[2]) or _counted(match[1])):
        return _rest(text, match, canonical(match[1], match[2]))
    return text, None


def canonical(words: str, power: str | None = None) -> str | None:
    """`square centimeters` and `cm` with power 2 are cm^2; None for what is no unit of measure."""
    *adjectives, noun = words.lower().replace(".", " ").split() or [""]
    unit = _CANONICAL.get(noun) or _CANONICAL.get(noun.removesuffix("s"))
    if unit is None or any(word not in _POWERS for word in adjectives):
        return None
    exponent = _POWERS[adjectives[-1]] if adjectives else int(power or 1)
    return unit if exponent == 1 else f"{unit}^{exponent}"


def _counted(words: str) -> bool:
    *adjectives, noun = words.lower().split()
    return noun.removesuffix("s") in _COUNTED and all(word in _POWERS for word in adjectives)


def _rest(text: str, match: re.Match[str], unit: str | None) -> tuple[str, str | None]:
    head = text[: match.start()].rstrip()
    return (head, unit) if _VALUE.search(head) else (text, None)
