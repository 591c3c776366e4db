r"""The rules that take away what stands around an answer: other characters, markup, colours, fonts, labels and words.

In a pattern, <text> is the opening of \text{ and <end> the end of a command's name.
"""

import re
import unicodedata
from collections.abc import Callable

from phfcli.core.grading.exact import CHANGING
from phfcli.core.grading.latex import group_end, unwrap

Rule = Callable[[str], str]

_UNICODE = str.maketrans(
    {
        **dict.fromkeys("−–—‒‑﹣－", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f", " "),
        **dict.fromkeys("\u200b\ufeff\u2060\u20e3\ufe0f✓✔∎", ""),
        **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty "},
        **dict.fromkeys("°º˚", r"^\circ "),
        **dict.fromkeys("⁄∕", "/"),
        **dict.fromkeys("∙∗", r"\cdot "),
        **dict.fromkeys("′’", "'"),
        **dict.fromkeys("⇒→∴⟹", r"\implies "),
        **{"∶": ":", "¢": r" cents", "⩽": r"\le ", "⩾": r"\ge ", "…": r"\ldots ", "″": "''", "٫": ".", "٬": ","},
        **{"ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "∠": r"\angle "},
        **{"±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ", "。": ".", "，": ", ", "、": ", ", "％": r"\%"},
        **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "},
        **{"∨": r"\lor ", "∧": r"\land ", "∖": r"\setminus ", "∣": r"\mid ", "⟨": "(", "⟩": ")"},
        **{"⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "℃": r"^\circ C", "℉": r"^\circ F"},
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
_SUBSCRIPT = re.compile("[₀₁₂₃₄₅₆₇₈₉]+")
_ROOT_SIGNS = {"√": "", "∛": "[3]", "∜": "[4]"}
_ROOT_SIGN = re.compile(r"([√∛∜])\s*([0-9]+(?:\.[0-9]+)?|[a-zA-Z]|(?=[({]))")
_ALIGNED = re.compile(
    r"\\begin\s*\{(aligned|align\*?|gathered|gather\*?|split|eqnarray\*?)\}(.*)\\end\s*\{\1\}", re.DOTALL
)
_SYSTEM = re.compile(r"(?:\\\{\s*)?\\begin\s*\{(cases|array)\}(?:\s*\{[lcr| ]*\})?(.*)\\end\s*\{\1\}", re.DOTALL)
_UNWRAPPED = frozenset(
    {"boxed", "fbox", "framebox", "bbox", "underline", "uline", "bold", "mathbf", "boldsymbol", "bm", "pmb"}
    | {"mathit", "mathsf", "mathtt", "mathcal", "operatorname", "ensuremath", "vec", "overrightarrow"}
    | {"mathbin", "mathrel", "mathord", "mathop", "underbrace", "overbrace"}
)
_TEXT = r"\\(?:mathrm|textrm|textnormal|textbf|textit|textsf|textsc|textup|textmd|texttt|mbox|hbox|emph)<end>"
_OPTIONS = r"\s*(?:\[[^\]]*\]\s*)*"  # of a command, in square brackets
_COLOUR = (
    rf"\\(?:textcolor|colorbox|enclose|color){_OPTIONS}\{{[^{{}}]*\}}|\\fcolorbox{_OPTIONS}\{{[^{{}}]*\}}\s*\{{[^{{}}]*\}}"
    rf"|\\(?:h|v)?phantom\s*\{{[^{{}}]*\}}|(?<=\\framebox){_OPTIONS}(?=\{{)|(?<=\\bbox){_OPTIONS}(?=\{{)"
)
_FONT = (
    r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bf|bfseries|rm|it|itshape|sf|tt|sc|em"
    r"|scriptstyle|scriptscriptstyle|boldmath|mathstrut|strut|nonumber|hfill|displaystyle|textstyle|limits|left|right"
    r"|[bB]igg?[lrm]?)<end>\.?"
)
_TAGS = r"</?(?:b|i|u|em|strong|span|p|div|br|code|mark|center|font|answer|math)(?:\s[^<>]*)?/?>"
_GOES_ON = re.compile(r",\s*\.\.\.$")  # a list without an end
_QUOTES = {
    "**": "**",
    "__": "__",
    "``": "''",
    "*": "*",
    "_": "_",
    "`": "`",
    '"': '"',
    "“": "”",
    "「": "」",
    "『": "』",
    "【": "】",
}
_UNCHANGING = "(?![^{}]*" + CHANGING.replace("$", r"\}") + ")"  # no words ahead that change the value
_LABEL = r"(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|ans)(?:\s+is)?\s*[:=]?\s*"
_LEAD = (  # words that say that the answer follows
    r"(?:so|yes|thus|hence|therefore|exactly|precisely|approximately|about|roughly|total|only|both|either"
    rf"|we (?:get|have)|{_UNCHANGING}[^{{}}]*\b(?:is|are|equals|equal to|be|was|were))"
)
OTHER_LETTERS = r"\u0400-\u1cff\u3040-\ud7af"  # of scripts other than Latin and Greek
_HAN_LABEL = (
    rf"^\s*(?:[\w\s]*[{OTHER_LETTERS}\u00c0-\u024f]\w*\s*[:：=]+\s*|(?:最终|答案|答|解|结果|一?共|有|则|故|所以|因此|应|选项?|是|为|為"
    r"|等于|\s)+)(?=[^\s])"
)


def substitution(pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> Rule:
    compiled = re.compile(pattern.replace("<text>", r"\\text\s*\{\s*").replace("<end>", "(?![a-zA-Z])"))
    return lambda text: compiled.sub(replacement, text)


def _written_out(text: str) -> str:
    """Writes Unicode fractions, powers and roots as LaTeX."""
    for character, fraction in _VULGAR.items():
        text = text.replace(character, fraction)
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _SUBSCRIPT.sub(lambda match: f"_{{{unicodedata.normalize('NFKC', match[0])}}}", text)
    return _ROOT_SIGN.sub(_root, text)


def _plain_characters(text: str) -> str:
    """Writes digits of every script, and letters in another font, as the plain ones; drops pictures."""
    if text.isascii():
        return text
    plain = (str(unicodedata.decimal(c)) if c.isdecimal() else unicodedata.normalize("NFKC", c) for c in text)
    text = "".join(new if len(new) <= 4 else c for c, new in zip(text, plain, strict=True)).translate(_UNICODE)
    return "".join(c for c in text if unicodedata.category(c) != "So")


def _root(match: re.Match[str]) -> str:
    """A root sign covers the number or letter after it; the spelling of calls handles a bracket after it."""
    return rf"\sqrt{_ROOT_SIGNS[match[1]]}" + (f"{{{match[2]}}}" if match[2] else "")


def _last_line(text: str) -> str:
    """Replaces an aligned block by its last line, which is where a derivation ends."""
    match = _ALIGNED.search(text)
    if match is None:
        return text
    lines = [line for line in re.split(r"\\\\(?:\[[^\]]*\])?", match[2]) if line.strip()]
    return text[: match.start()] + (lines[-1].replace("&", "") if lines else "") + text[match.end() :]


def _system(text: str) -> str:
    """Writes a system of equations as a list of equations."""
    match = _SYSTEM.fullmatch(text.strip().removesuffix(r"\right.").strip().removeprefix(r"\left").strip())
    lines = [line.strip(" ,") for line in re.split(r"\\\\(?:\[[^\]]*\])?", match[2]) if line.strip()] if match else []
    bare = [line.replace("&", "") for line in lines]
    equations = [line for line in bare if re.fullmatch(r"\s*[a-zA-Z](?:_\{?\w\}?)?\s*=[^=<>]+", line)]
    return ", ".join(bare) if lines and len(equations) == len(lines) else text


def _printable(text: str) -> str:
    """Replaces control characters, NUL and lone surrogates, which carry no mathematics and break parsers."""
    return "".join(c if c.isprintable() else " " for c in text.translate(_UNICODE))


def delimiters(text: str) -> str:
    r"""Strips \(...\) and \[...\] around the whole, and the punctuation that ends a sentence."""
    text = text.strip()
    for opening, ending in (("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(opening) and text.endswith(ending):
            text = text[2:-2]
    if text.startswith("{") and group_end(text, 0) == len(text) - 1:
        return delimiters(text[1:-1])
    text = text.strip()
    return text if _GOES_ON.search(text) else text.rstrip(".,;: ")


def _unquoted(text: str) -> str:
    """Strips Markdown's emphasis and quotation marks around the whole."""
    text = text.strip()
    for opening, ending in _QUOTES.items():
        if text.startswith(opening) and text.endswith(ending) and len(text) > len(opening + ending):
            inside = text[len(opening) : -len(ending)]
            return text if opening in inside else _unquoted(inside)
    return text


def lines(text: str) -> str:
    r"""Writes the lines of a text outside of an environment as a list."""
    return text if "\\begin" in text else re.sub(r"\s*\\\\\s*(?=\S)", ", ", text)


MARKUP: tuple[tuple[str, Rule], ...] = (
    ("printable", _printable),
    ("written out", _written_out),
    ("plain characters", _plain_characters),
    ("tags of HTML", substitution(_TAGS, "")),
    (
        "powers and indices in HTML",
        substitution(r"<su([pb])>([^<>]*)</su\1>", lambda m: f"{'^' if m[1] == 'p' else '_'}{{{m[2]}}}"),
    ),
    ("aligned", _last_line),
    ("system", _system),
    ("upright words", substitution(r"\{\s*\\rm\s+([a-zA-Z][a-zA-Z ]*)\}", r"\\text{\1}")),
    ("colours and boxes", substitution(_COLOUR, "")),
    ("fonts, sizes and display", substitution(_FONT, " ")),
    (
        "tags",
        substitution(
            r"\\(?:tag|label)\*?\s*\{[^{}]*\}|(?:[\\\s]*\\(?:blacksquare|square|Box|qed|checkmark)<end>)+\s*$", ""
        ),
    ),
    ("last line end", substitution(r"\\\\\s*$", "")),
    (
        "arrows",
        substitution(
            r"^\s*\\(?:therefore|implies|Rightarrow|Longrightarrow|rightarrow|to|Leftrightarrow|iff)<end>", ""
        ),
    ),
    ("bold label", substitution(r"^\s*\*\*([^*]*[a-zA-Z]\s*:?)\*\*(?=\s*:|(?<=:\*\*))", r"\1")),
    ("quotation", _unquoted),
    ("labels in other scripts", substitution(_HAN_LABEL, "")),
    ("answer label in text", substitution(rf"^\s*<text>(?i:{_LABEL})\}}\s*(?=\S)", "")),
    ("answer label", substitution(rf"^\s*(?i:{_LABEL})(?=[^\sa-zA-Z])", "")),
    ("wrappers", lambda text: unwrap(text, _UNWRAPPED)),
    ("text", substitution(_TEXT, r"\\text")),
    (
        "label before a colon",
        substitution(
            rf"^\s*<text>{_UNCHANGING}[^{{}}]*[a-zA-Z]{{3}}[^{{}}]*[:=]\s*\}}\s*(?=\S)(?!.*<text>[^{{}}]*[:=]\s*\}})",
            "",
        ),
    ),
    ("words before the answer", substitution(rf"^\s*<text>(?i:{_LEAD})[\s,:]*\}}\s*(?=\S)", "")),
    (
        "bare words before the answer",
        substitution(
            rf"^\s*{_UNCHANGING}[^\W\d_][^\d\\${{}}=<>,;]*\s(?:is|are|equals|est|es|ist|è|é)\s*:?\s*(?=[-+0-9\\$(\[])",
            "",
        ),
    ),
    ("formula in text", substitution(r"^\s*<text>([^{}]*[a-zA-Z]\s*[:=]\s*[-+]?[0-9./]+\s*)\}\s*$", r"\1")),
    ("plain label", substitution(r"^\s*[a-zA-Z ]*[a-zA-Z]{3}\s*:\s*(?=[-+0-9\\])", "")),
    ("names in words", substitution(r"(^|,)\s*<text>[^{}]*[a-zA-Z]{2}[^{}]*\}\s*=\s*(?=\S)", r"\1 ")),
    ("minus in words", substitution(r"^\s*(?:<text>)?(?i:minus|negative)\s*\}?\s*(?=[0-9\\])", "-")),
)
