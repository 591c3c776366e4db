r"""The rules that write an answer in one spelling, applied in order.

In a pattern, <text> is the opening of \text{ and <end> the end of a command's name.
"""

import re
from collections.abc import Sequence

from phfcli.core.grading import sets
from phfcli.core.grading.exact import plain_number
from phfcli.core.grading.latex import closing
from phfcli.core.grading.markup import MARKUP, OTHER_LETTERS, Rule, delimiters, lines
from phfcli.core.grading.markup import substitution as _sub

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_TENS = "ten twenty thirty forty fifty sixty seventy eighty ninety"
_DIGIT_WORDS = {
    **{word: i for i, word in enumerate(f"{_ONES} seventeen eighteen nineteen".split())},
    **{word: 10 * i for i, word in enumerate(_TENS.split(), start=1)},
    **{character: i for i, character in enumerate("零一二三四五六七八九")},
    **{"〇": 0, "两": 2},
}
_POWER_WORDS = {"hundred": 100, "thousand": 1000, "million": 10**6, "十": 10, "百": 100, "千": 1000, "万": 10_000}
_POWER_WORDS |= {"亿": 10**8, "billion": 10**9}
_MOST_NUMBER_WORDS = 40
_PARTS = "half third quarter fifth sixth seventh eighth ninth tenth"
_PART_WORDS = {part: i for i, part in enumerate(_PARTS.split(), start=2)} | {"fourth": 4, "hundredth": 100, "halve": 2}


def spelled_value(text: str) -> str | None:
    """The number that English or Chinese words spell as a whole, in digits: minus two thirds, 三分之一; else None."""
    words = text.strip().lower()
    for sign in ("minus ", "negative ", "负"):
        if words.startswith(sign):
            return f"-{value}" if (value := spelled_value(words.removeprefix(sign))) else None
    if words == "一半":
        return r"\frac{1}{2}"
    bottom, cut, top = words.partition("分之")
    if cut:
        below = 100 if bottom == "百" else spelled_number(bottom)
    else:
        top, _, part = words.replace("-", " ").rpartition(" ")
        below = _PART_WORDS.get(part) or _PART_WORDS.get(part.removesuffix("s"))
        top = "one" if top in ("", "a") and part == "half" else "one" if top == "a" else top
    if below and (above := spelled_number(top)):
        return rf"\frac{{{above}}}{{{below}}}"
    number = spelled_number(words)
    return None if number is None else str(number)


def spelled_number(text: str) -> int | None:
    """The integer that English or Chinese words spell as a whole, such as twenty-one and 二十一; else None."""
    words = text.strip().lower().replace("-", " ").split()
    if not text.isascii():
        words = list(text.strip())
    known = all(word in _DIGIT_WORDS or word in _POWER_WORDS or word == "and" for word in words)
    if not known or not 0 < len(words) <= _MOST_NUMBER_WORDS:
        return None
    return _spelled([word for word in words if word not in ("and", "零")] or words)


def _spelled(words: Sequence[str]) -> int | None:
    """The value of number words; None where they do not form one number, as in "two three"."""
    powers = [i for i, word in enumerate(words) if word in _POWER_WORDS]
    if powers:
        at = max(powers, key=lambda i: _POWER_WORDS[words[i]])
        power = _POWER_WORDS[words[at]]
        before = _spelled(words[:at]) if at else (1 if power == 10 else None)
        after = _spelled(words[at + 1 :]) if words[at + 1 :] else 0
        return None if not before or after is None or after >= power else before * power + after
    values = [_DIGIT_WORDS.get(word) for word in words]
    if len(values) == 2 and (values[0] or 0) >= 20 and 0 < (values[1] or 0) < 10:
        return (values[0] or 0) + (values[1] or 0)
    return values[0] if len(values) == 1 else None


_CALLED = {  # what stands for the brackets of a call
    "\\sqrt": ("\\sqrt{", "}"), "abs": ("|", "|"), "floor": (r"\lfloor ", r" \rfloor "),
    "ceil": (r"\lceil ", r" \rceil "),
    "cbrt": (r"\sqrt[3]{", "}"),
}  # fmt: skip
_CALL = re.compile(r"(\\sqrt|(?<![a-zA-Z\\])(?:\\text\s*\{\s*)?(?:abs|floor|ceil|cbrt)\b\s*\}?)\s*(?=\()")
_MAGNITUDES = {
    "hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "百": 2, "千": 3, "万": 4, "萬": 4,
    "亿": 8, "億": 8, "lakh": 5, "crore": 7,
}  # fmt: skip
_MAGNITUDE = re.compile(rf"(?<=[0-9])\s*(\\text\s*\{{)?\s*({'|'.join(_MAGNITUDES)})(?![a-zA-Z])\s*(?(1)([^{{}}]*)\}})")
_CURRENCY = (
    r"\\?[$]|[£€¥₹₽₩]|\\(?:pounds|euro|yen|textdollar)<end>(?:\s*\{\s*\})?"
    r"|^\s*(?:<text>)?(?:USD|EUR|GBP|CAD|AUD|INR|JPY|CNY|RMB|US|Rs)\.?\s*\}?\s*(?=[\s0-9$\\])"
)
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|ln|log|exp|sqrt|pi|infty"
_ALIASES = {
    "arctg": "arctan",
    "tg": "tan",
    "ctg": "cot",
    "cotg": "cot",
    "cosec": "csc",
    "sh": "sinh",
    "ch": "cosh",
    "lg": "log_{10}",
}
_NUMBER_SETS = {
    "real": r"\mathbb{R}", "integer": r"\mathbb{Z}", "positive real": r"(0,\infty)", "negative real": r"(-\infty,0)",
    "nonnegative real": r"[0,\infty)", "nonpositive real": r"(-\infty,0]", "positive integer": r"\mathbb{Z}^+",
}  # fmt: skip
_DECIMAL = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"  # a run of digits matches in one way only, or the time would be cubic
_PERCENTAGE = re.compile(rf"(?<![0-9]){_DECIMAL}\s*\\%")
_TRIGONOMETRIC = r"\\(?:sin|cos|tan|cot|sec|csc)<end>(?:\s*\^\s*(?:[0-9]|\{[0-9]\}))?\s*[({]?\s*"
_DEGREES = r"([0-9]+(?:\.[0-9]+)?)\s*\^\s*(?:\\circ<end>|\{\s*\\circ\s*\})"
_POLAR = re.compile(r"(\\text\s*\{\s*cis\s*\}|(?<![a-zA-Z])\\?cis(?![a-zA-Z])|\\angle(?![a-zA-Z]))\s*(.+)")
_COUNT = r"\{?\s*([0-9]+|[a-zN])\s*\}?"
_UNIT_VECTOR = re.compile(r"\\(?:mathbf|hat|vec|boldsymbol|bm)\s*\{?\s*\\?(?:mathbf\s*\{\s*)?([ijk])(?:math)?\s*\}*")
_TRANSPOSED = r"(?<=[)\]])\s*\^\s*\{?\s*(?:T|\\top|\\intercal|\\text\s*\{\s*T\s*\}|\\mathsf\s*\{?\s*T\s*\}?)\s*\}?$"
_BASES = {"binary": 2, "octal": 8, "hexadecimal": 16, "hex": 16, "0b": 2, "0o": 8, "0x": 16}


def _called(text: str) -> str:
    r"""Writes \sqrt(a) as \sqrt{a} and abs(a) as |a|, if the bracket is closed."""
    position = 0
    while match := _CALL.search(text, position):
        position = match.end()
        end = closing(text, position)
        if end is not None:
            name = re.sub(r"\\text\s*\{|[\s}]", "", match[1])
            before, after = _CALLED[name]
            text = f"{text[: match.start()]}{before}{text[position + 1 : end]}{after}{text[end + 1 :]}"
            position = match.start() + len(before)
    return text


def _magnitudes(text: str) -> str:
    r"""Writes 5 million and 5\text{ million dollars} with a power of ten."""

    def power(match: re.Match[str]) -> str:
        rest = f"\\text{{{match[3]}}}" if match[3] else ""
        return rf"\times 10^{{{_MAGNITUDES[match[2]]}}}{rest}"

    return _MAGNITUDE.sub(power, text)


def _polar(text: str) -> str:
    r"""Writes 2 cis a and 2\angle a with cosine and sine; an angle behind no number is the name of one."""
    match = _POLAR.search(text)
    if match is None or "=" in text or (match[1] == r"\angle" and not re.search(r"[0-9}]\s*$", text[: match.start()])):
        return text
    angle = match[2].strip()
    angle = angle if angle.startswith("(") and closing(angle, 0) == len(angle) - 1 else f"({angle})"
    return rf"{text[: match.start()]}(\cos{angle}+i\sin{angle})"


def _unit_vectors(text: str) -> str:
    r"""Writes a\mathbf{i} + b\mathbf{j} + c\mathbf{k} as (a, b, c)."""
    if not _UNIT_VECTOR.search(text):
        return text
    name, equals, sums = text.rpartition("=")
    parts = _UNIT_VECTOR.split(sums.strip())
    names, factors = parts[1::2], [part.replace(" ", "").removeprefix("+") for part in parts[:-1:2]]
    if (
        parts[-1].strip()
        or len(set(names)) < len(names)
        or any(re.search(r"(?<=.)[+-](?![^(]*\))", f) for f in factors)
    ):
        return text
    values = dict(zip(names, ({"": "1", "-": "-1"}.get(factor, factor) for factor in factors), strict=True))
    return f"{name}{equals}({', '.join(values.get(axis, '0') for axis in ('ijk' if 'k' in names else 'ij'))})"


def _sexagesimal(match: re.Match[str]) -> str:
    minutes = 60 * int(match[2]) + int(match[3] or 0)
    return rf"\frac{{{3600 * int(match[1]) + minutes}}}{{3600}}^\circ "


def _percent(text: str) -> str:
    """Writes a percentage inside a formula as a fraction; one that stands alone is read as a plain number."""
    return text if plain_number(text) else _PERCENTAGE.sub(r"\\frac{\1}{100}", text)


def _set(match: re.Match[str]) -> str:
    return _NUMBER_SETS.get(" ".join(match[1].lower().replace("-", "").split()).removesuffix("s"), match[0])


def _prefixed(match: re.Match[str]) -> str:
    return f"{match[2].upper()}_{{{_BASES[match[1]]}}}"


def _in_digits(text: str) -> str:
    r"""Writes an answer in words as its number: \text{two thirds}, 三分之一; any other text as it is."""
    whole = re.fullmatch(r"\\text\s*\{([^{}]*)\}", text.strip())
    return spelled_value(whole[1] if whole else text) or text


RULES: tuple[tuple[str, Rule], ...] = (
    ("unit vectors", _unit_vectors),
    *MARKUP,
    ("magnitudes", _magnitudes),
    ("words in other scripts", _sub(rf"(?<=[0-9])\s*(?![半点分又])[{OTHER_LETTERS}]+$", "")),
    ("no solution in Chinese", _sub(r"^\s*无解\s*$", r"\\text{no solution}")),
    ("power of a unit", _sub(r"<text>([^{}^]*)\^\s*\{?\s*([23])\s*\}?\s*\}", r"\\text{\1}^{\2}")),
    (
        "rates",
        _sub(r"\\frac\s*\{\s*<text>([^{}]*)\}\s*\}\s*\{\s*<text>([^{}]*)\}\s*(\^\s*\{?2\}?)?\s*\}", r"\\text{\1/\2}\3"),
    ),
    ("inverse units", _sub(r"<text>([^{}]*)\}\s*\\cdot\s*<text>([^{}]*)\}\s*\^\s*\{\s*-1\s*\}", r"\\text{\1/\2}")),
    (
        "inverse units in text",
        _sub(r"<text>([a-z]+)(?:\\,|\\cdot|\s)+([a-z]+)\s*\}?\s*\^\s*\{\s*-1\s*\}(?:\s*\})?", r"\\text{\1/\2}"),
    ),
    ("degrees in text", _sub(r"<text>(\^\s*\\circ)\s*([CF]?)\s*\}", r"\1 \2")),
    ("degree command", _sub(r"\^?\s*(?:\{\s*)?\\degree<end>(?:\s*\})?", r"^\\circ ")),
    ("degree as a letter", _sub(r"(?<=[0-9])\s*\^\s*(?:\{\s*(?:<text>)?o\s*\}{1,2}|o<end>)", r"^\\circ ")),
    (
        "minutes of a degree",
        _sub(
            r"([0-9]+)\s*\^\s*\{?\s*\\circ\s*\}?\s*([0-9]+)\s*(?:'|\^\s*\{?\\prime\}?)\s*(?:([0-9]+)\s*'')?",
            _sexagesimal,
        ),
    ),
    ("constant", _sub(r"\+\s*<text>const(?:ant)?\.?\s*\}", "+ C")),
    ("empty group", _sub(r"\{\s*\}(?=\s*[\^_])", "")),
    ("magnitudes in text", _magnitudes),
    (
        "ordinals",
        _sub(r"(?<=[0-9])\s*(?:\^\s*\{?\s*|\\textsuperscript\s*\{)?(?:<text>)?(?:st|nd|rd|th)\s*\}{0,2}\s*$", ""),
    ),
    ("numerals in text", _sub(r"<text>([0-9A-F]+)\s*\}\s*(?=_)", r"\1")),
    (
        "prefix of a base",
        _sub(r"^\s*(?:<text>)?(0[box])([0-9a-fA-F]+)\s*\}?$", _prefixed),
    ),
    (
        "bases",
        _sub(
            r"[\s,]*(?:<text>)?(?:in\s+)?\(?\s*(?:<text>)?\(?\s*(?:in )?base[\s~-]*\}?\s*([0-9]+)\s*\)?\s*\}?\s*\)?$",
            r"_{\1}",
        ),
    ),
    (
        "bases in words",
        _sub(r"\s*<text>\(?\s*(?:in )?(binary|octal|hexadecimal|hex)\s*\)?\s*\}$", lambda m: f"_{{{_BASES[m[1]]}}}"),
    ),
    ("numeral and base in text", _sub(r"^\s*<text>([0-9A-F]+)\s*_\{([0-9]+)\}$", r"\1_{\2}")),
    ("colons", _sub(r"\{:\}|\\colon<end>", ":")),
    ("ratios", _sub(r"(?<=[0-9a-z])\s*(?:<text>(?:is )?to\s*\}|<text>:\s*\}|(?<=\s)to(?=\s))\s*(?=[0-9a-z])", ":")),
    ("list in words", _sub(r"\s*,?\s*<text>[,;]\s*(?:and|or)\s*\}|\s*\\&", ", ")),
    ("either or", _sub(r"(?<==)([^=]*)\\(?:lor|vee)<end>(?=[^=<>]*=)", r"\1,")),
    ("apostrophes", _sub(r"(?<=[0-9])'(?=[0-9]{3}(?![0-9]))", "")),
    ("dots between thousands", _sub(r"^\s*(-?[0-9]{1,3}(?:\.[0-9]{3}){2,})\s*$", lambda m: m[1].replace(".", ""))),
    ("powers of programs", _sub(r"\s*\*\*\s*\(?\s*(-?\w+)\s*\)?", r"^{\1}")),
    ("negative exponents", _sub(r"\^\s*(-[0-9]+)", r"^{\1}")),
    ("times a power of ten", _sub(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^)", r"\\times ")),
    (
        "dotted period",
        _sub(
            r"(?<=\.)([0-9]*)(?:\\(?:dot|bar)\s*\{?([0-9]+)\}?([0-9]*)(?:\\dot\s*\{?([0-9])\}?)?|\(([0-9]+)\))\s*$",
            r"\1\\overline{\2\3\4\5}",
        ),
    ),
    (
        "period with an ellipsis",
        _sub(
            r"(?<=\.)([0-9]{0,12}?)(?:([0-9])\2\2+|([0-9]{2,6}?)\3+)\s*(?:\\[lcd]?dots|\.\.\.)\s*$",
            r"\1\\overline{\2\3}",
        ),
    ),
    ("decimal with an ellipsis", _sub(r"(?<=\.)([0-9]{5,})\s*(?:\\[lcd]?dots|\.\.\.)\s*$", r"\1")),
    ("text without words", _sub(r"<text>([^{}a-zA-Z\\]*)\}", r"\1")),
    ("currency", _sub(_CURRENCY, "")),
    ("leading signs", _sub(r"^\s*(?:\\?#|[:=])\s*(?=[-0-9\\])", "")),
    ("root sign", _sub(r"\\surd<end>", r"\\sqrt ")),
    ("thousands", _sub(r"(?<=[0-9])(?:(?:,?(?<!\\)\\[,;:! ]|~|\{,\})\s*)(?=[0-9]{3}(?![0-9]))", "")),
    ("decimal comma", _sub(r"(?<=[0-9])\{,\}(?=[0-9])", ".")),
    ("negative space", _sub(r"(?<!\\)\\!", "")),
    ("spaces", _sub(r"(?<!\\)\\[,;:> ]|~|\\q?quad<end>|\\[hv]space\*?\{[^{}]*\}", " ")),
    ("runs of blanks", _sub(r"\s{2,}", " ")),
    (
        "fractions in words",
        _sub(r"\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\\over<end>([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}", r"\\frac{\1}{\2}"),
    ),
    ("bare binomials", _sub(r"\\binom\s*([0-9a-zA-Z])\s*([0-9a-zA-Z])", r"\\binom{\1}{\2}")),
    ("choose", _sub(r"\{\s*([^{}]+?)\s*\\choose<end>\s*([^{}]+?)\s*\}", r"\\binom{\1}{\2}")),
    ("delimiters", delimiters),
    ("lines", lines),
    ("fractions", _sub(r"\\(?:[dtcs]|nice|flat)frac<end>", r"\\frac")),
    ("binomials", _sub(r"\\[dt]binom<end>", r"\\binom")),
    (
        "combinations",
        _sub(
            rf"(?<![a-zA-Z\\])C\(\s*([0-9]+|[a-z]),\s*([0-9]+|[a-z])\s*\)|[\^_]{_COUNT}(?:<text>)?C\}}?_{_COUNT}",
            lambda m: rf"\binom{{{m[1] or m[3]}}}{{{m[2] or m[4]}}}",
        ),
    ),
    (
        "combinations, Russian and Chinese",
        _sub(rf"(?<![a-zA-Z\\^_])(?:<text>)?C\}}?_{_COUNT}\^{_COUNT}", r"\\binom{\1}{\2}"),
    ),
    ("braces", _sub(r"\\lbrace<end>", r"\\{")),
    ("braces, closing", _sub(r"\\rbrace<end>", r"\\}")),
    ("angles", _sub(r"\\langle<end>", "(")),
    ("angles, closing", _sub(r"\\rangle<end>", ")")),
    ("transposed", _sub(_TRANSPOSED, "")),
    ("empty set", _sub(r"\\varnothing<end>|\\\{\s*\\\}", r"\\emptyset ")),
    (
        "no solution",
        _sub(
            r"^\s*<text>(?i:none|(?:the )?empty set|(?:there (?:is|are)|has|have)? ?no (?:real |integer |such |valid )?"
            r"(?:solutions?|values?|roots?)(?: exists?)?)\.?\s*\}\s*$",
            r"\\emptyset ",
        ),
    ),
    (
        "numbers of a kind",
        _sub(r"^\s*<text>(?i:(?:the set of )?(?:all )?([a-z -]*?(?:reals?|integers?))(?: numbers?)?)\s*\}\s*$", _set),
    ),
    (
        "real numbers except",
        _sub(
            r"^\s*<text>(?i:all reals?(?: numbers)? except)\s*\}\s*(?:[a-z]\s*=)?\s*(.+)$",
            r"\\mathbb{R}\\setminus\\{\1\\}",
        ),
    ),
    (
        "reals without",
        _sub(
            r"(\\mathbb\s*\{?\s*R\s*\}?)\s*(?:-|\\backslash<end>|\\smallsetminus<end>|\\)\s*(?=\\\{)", r"\1\\setminus "
        ),
    ),
    ("positive reals", _sub(r"^\s*\\mathbb\s*\{?\s*R\s*\}?\s*[\^_]\s*\{?\s*(?:\+|>\s*0)\s*\}?$", r"(0,\\infty)")),
    ("infinity", _sub(r"^\s*<text>(?i:(?:positive )?infinity|inf)\s*\}$", r"\\infty ")),
    ("negative infinity", _sub(r"^\s*<text>(?i:(?:negative|minus) infinity)\s*\}$", r"-\\infty ")),
    ("numbers in words", _in_digits),
    ("open ends", sets.round_brackets),
    ("semicolons", sets.semicolons),
    ("relations of programs", _sub(r"([<>])=", lambda m: r"\le " if m[1] == "<" else r"\ge ")),
    ("set builder", sets.set_builder),
    ("unions", sets.unions),
    ("ellipsis", sets.listed),
    ("condition", sets.without_condition),
    ("constants", _sub(r"<text>([ei])\s*\}", r" \1 ")),
    ("programs", _sub(r"(?<![a-zA-Z\\])(?:np|numpy|math|sympy)\.", "")),
    ("functions", _sub(rf"(?<![a-zA-Z\\{{])({_FUNCTIONS})<end>", r"\\\1 ")),
    (
        "functions by other names",
        _sub(rf"(?:\\|(?<![a-zA-Z\\])|<text>)({'|'.join(_ALIASES)})<end>(?:\s*\}})?", lambda m: f"\\{_ALIASES[m[1]]} "),
    ),
    ("natural logarithm", _sub(r"\\log\s*_\s*\{?\s*e\s*\}?<end>", r"\\ln ")),
    ("calls", _called),
    ("approximately", _sub(r"^\s*(?:[a-zA-Z]\s*)?\\(?:approx|simeq|sim)<end>\s*", "")),
    ("polar form", _polar),
    ("degrees of an angle", _sub(rf"({_TRIGONOMETRIC}){_DEGREES}", r"\1\\frac{\2\\pi}{180}")),
    ("imaginary unit", _sub(r"(?<=[0-9])i<end>", " i")),
    ("scientific", _sub(rf"(?<![\w.}}\\]){_DECIMAL}[eE]\+?(-?[0-9]+)(?![\w.])", r"\1\\times 10^{\2}")),
    (
        "percent sign",
        _sub(
            r"\s*<text>(?:per ?cent(?:age)?|pct\.?|\\?%)\s*\}|(?<=[0-9])\s*(?:per ?cent(?:age)?|pct)<end>|(?<!\\)%",
            r"\\%",
        ),
    ),
    ("percent of a fraction", _sub(r"((?:[0-9]+\s*)?\\frac\s*\{[^{}]*\}\s*\{[^{}]*\})\s*\\%", r"\\frac{\1}{100}")),
    ("percent", _percent),
    ("factorials", _sub(r"([0-9]+|[a-zA-Z])!\s*\^", r"(\1!)^")),
    ("mixed fractions", _sub(r"(?<![0-9.])([0-9]+) +([0-9]+)/([0-9]+)(?![0-9.])", r"\1\\frac{\2}{\3}")),
    ("products", _sub(r"(?<![_^\w.}\\])([0-9]+(?:\.[0-9]+)?)\s*\((?!\s*[a-z{}\\ ]*mod)", r"\1\\cdot (")),
    ("products of groups", _sub(r"\)\s*(?=\(|[0-9]|\\frac)", r")\\cdot ")),
    ("plus or minus", sets.plus_minus),
    ("blanks", _sub(r"\s+", " ")),
    ("ends", delimiters),
)


def normalise(text: str) -> str:
    """The text in the spelling that the rest of the grader expects: all RULES applied in order."""
    for _, rule in RULES:
        text = rule(text)
    return text
