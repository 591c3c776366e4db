"""Reads the LaTeX of an answer: the last box, its parts, and the rules that normalise its spelling."""

import itertools
import re
import unicodedata
from collections.abc import Callable

from phfcli.core.grading.exact import plain_number

_TOKEN = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace \{ is a symbol, not a group
_BARE = re.compile(r"\s*([+-]?[0-9](?:[0-9.,]*[0-9])?|[A-Za-z])(?![A-Za-z0-9])")
_JOINED = re.compile(r"[\s$,;.]*(?:and|or|\\text\{\s*(?:and|or)\s*\})?[\s$,]*")
_COMMAND = "\\boxed"
_SPACES = re.compile(r"\s*")


def last_box(text: str) -> str | None:
    r"""The content of the last \boxed in `text`, or None.

    None means that there is no box, that the last one is empty, or that the last one is never closed; an earlier box is
    then not the final answer. `\boxed 5` and `\boxed x` (one number or one letter) count as boxes too. A mention of the
    command without content is skipped.
    """
    start = text.rfind(_COMMAND)
    while start >= 0:
        after = start + len(_COMMAND)
        if text[after : after + 1].isalpha():  # \boxedsomething is another command
            start = text.rfind(_COMMAND, 0, start)
            continue
        brace = _SPACES.match(text, after).end()  # type: ignore[union-attr]  # it matches an empty text too
        if text[brace : brace + 1] == "{":
            end = group_end(text, brace)
            return text[brace + 1 : end].strip() or None if end is not None else None
        if bare := _BARE.match(text, after):
            return bare[1]
        if brace == len(text):
            return None  # the completion is cut there
        start = text.rfind(_COMMAND, 0, start)  # the command is only mentioned
    return None


def last_boxes(text: str) -> list[str]:
    r"""The contents of the last boxes, in order, as long as only "and", "or" and commas stand between them."""
    starts = [match.start() for match in re.finditer(r"\\boxed\s*\{", text)]
    boxes: list[str] = []
    following = len(text)
    for start in reversed(starts):
        brace = text.index("{", start)
        end = group_end(text, brace)
        if end is None or (boxes and not _JOINED.fullmatch(text, end + 1, following)):
            break
        boxes.insert(0, text[brace + 1 : end].strip())
        following = start
    return boxes


def split_thinking(text: str) -> tuple[str, str]:
    """(thinking, text after it). The prompt may hold the opening tag; the token limit may cut off the closing one."""
    thinking, closed, rest = text.partition("</think>")
    if not closed and not text.lstrip().startswith("<think>"):
        return "", text
    return thinking.lstrip().removeprefix("<think>").strip(), rest.strip()


def group_end(text: str, brace: int) -> int | None:
    """Position of the brace that closes the one at `brace`, or None where there is none."""
    depth = 0
    for token in _TOKEN.finditer(text, brace):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                return token.start()
    return None


def unwrap(text: str, commands: frozenset[str]) -> str:
    r"""Replaces \command{content} by content for each of the commands, also where they are nested."""
    pattern = re.compile(r"\\([a-zA-Z]+)\s*\{")
    position = 0
    while match := pattern.search(text, position):
        brace = match.end() - 1
        end = group_end(text, brace) if match[1] in commands else None
        if end is None:
            position = match.end()
        else:
            text = text[: match.start()] + " " + text[brace + 1 : end] + text[end + 1 :]
            position = match.start()
    return text


def split_commas(text: str) -> list[str]:
    """Splits at the commas outside all brackets; in an unbalanced text at those where the bracket depth is zero."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"\\[a-zA-Z]+|\\.|[()\[\]{},]", text, re.DOTALL):
        token = match[0].removeprefix("\\")
        if token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
        elif match[0] == "," and depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def enclosure(text: str) -> str | None:
    r"""The bracket around a whole list: "{" for \{a, b\}, "(" for (a, b), [a, b] and (a, b]; None if there is none."""
    opening, closing = ("\\{", "\\}") if text.startswith("\\{") else (text[:1], text[-1:])
    if opening not in {"\\{", "(", "["} or not text.endswith(closing) or closing not in {"\\}", ")", "]"}:
        return None
    depth = 0
    for match in re.finditer(r"\\[{}]|[()\[\]]", text):
        depth += 1 if match[0] in {"\\{", "(", "["} else -1
        if depth == 0 and match.end() != len(text):
            return None
    body = text[len(opening) : -len(closing)]
    if len(split_commas(body)) < 2 or re.search(r"[:|<>]|\\mid|\\[lg]eq?", body):
        return None
    return "{" if opening == "\\{" else "("


Rule = Callable[[str], str]

_UNICODE = str.maketrans(
    {
        **dict.fromkeys("−–—‒‑﹣－", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f", " "),
        **dict.fromkeys("\u200b\ufeff\u2060✓✔■□∎", ""),
        **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty "},
        **dict.fromkeys("°º˚", r"^\circ "),
        **dict.fromkeys("⁄∕", "/"),
        **dict.fromkeys("∙∗", r"\cdot "),
        **{"∶": ":", "¢": r" cents", "ℝ": r"\mathbb{R}", "⩽": r"\le ", "⩾": r"\ge ", "…": r"\ldots "},
        **{"±": r"\pm ", "∅": r"\emptyset ", "。": ".", "，": ", ", "、": ", ", "％": r"\%"},
        **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "},
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
_PARENTHESISED_ROOT = re.compile(r"\\sqrt\s*(?=\()")
_LABEL = r"(?:(?:so|thus|hence|therefore),?\s+)?(?:the\s+)?(?:final\s+|correct\s+)?answer(?:\s+is)?\s*[:=]?\s*"
_ALIGNED = re.compile(
    r"\\begin\s*\{(aligned|align\*?|gathered|gather\*?|split|eqnarray\*?)\}(.*)\\end\s*\{\1\}", re.DOTALL
)
_UNWRAPPED = frozenset(
    {"boxed", "fbox", "framebox", "bbox", "underline", "uline", "bold", "mathbf", "boldsymbol", "bm", "pmb"}
    | {"mathit", "mathsf", "mathtt", "mathcal", "operatorname"}
    | {"mathbin", "mathrel", "mathord", "mathop", "underbrace", "overbrace"}
)
_TEXT = r"\\(?:mathrm|textrm|textnormal|textbf|textit|textsf|textsc|textup|textmd|texttt|mbox|hbox|emph)(?![a-zA-Z])"
_OPTIONS = r"\s*(?:\[[^\]]*\]\s*)*"  # of a command, in square brackets
_COLOUR = (
    rf"\\(?:textcolor|colorbox|enclose|color){_OPTIONS}\{{[^{{}}]*\}}|\\fcolorbox{_OPTIONS}\{{[^{{}}]*\}}\s*\{{[^{{}}]*\}}"
    rf"|\\(?:h|v)?phantom\s*\{{[^{{}}]*\}}|(?<=\\framebox){_OPTIONS}(?=\{{)|(?<=\\bbox){_OPTIONS}(?=\{{)"
)
_FONT = (
    r"\\(?:tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bf|bfseries|rm|it|itshape|sf|tt|sc|em"
    r"|scriptstyle|scriptscriptstyle|boldmath|mathstrut|strut|nonumber|hfill)(?![a-zA-Z])"
)
_QUOTES = {"**": "**", "__": "__", "``": "''", "*": "*", "_": "_", "`": "`", '"': '"', "“": "”", "「": "」", "『": "』"}
_LEAD = (  # words that say that the answer follows
    r"(?:so|yes|thus|hence|therefore|exactly|precisely|approximately|about|roughly|total"
    r"|there (?:are|is)|we (?:get|have)|it is"
    r"|(?:the )?(?:value|sum|total|number|area|result|answer|probability|length)[a-z ]* (?:is|are|equals))"
)
_HAN_LABEL = r"^\s*(?:最终|答案|答|解|结果|一?共|有|则|故|所以|因此|应|是|为|為|等于|[::\s])+(?=[^\s])"
_HAN = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
_MAGNITUDES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MAGNITUDE = re.compile(rf"(?<=[0-9])\s*(\\text\s*\{{)?\s*({'|'.join(_MAGNITUDES)})(?![a-zA-Z])\s*(?(1)([^{{}}]*)\}})")
_SPAN = re.compile(r"(?:^|(?<=[\s=,;(])|(?<=cup)|(?<=in))([\[\](])([^\[\],;]+[,;][^\[\],;]+)([\[\])])(?=$|[\s,;).]|\\)")
_BUILDER = re.compile(
    r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*\\mathbb\s*\{?\s*R\s*\}?\s*)?(?:\\mid(?![a-zA-Z])|\\vert(?![a-zA-Z])|:|\|)\s*(.*?)\s*\\\}"
)
_OR = re.compile(r"\s*(?:\\(?:lor|vee)(?![a-zA-Z])|\\cup(?![a-zA-Z])|\\text\s*\{\s*,?\s*or\s*\}|(?<=\s)or(?=\s))\s*")
_AND = re.compile(r"\s*(?:\\(?:land|wedge)(?![a-zA-Z])|\\text\s*\{\s*,?\s*and\s*\}|(?<=\s)and(?=\s))\s*")
_RELATION = re.compile(r"\s*(<=|>=|<|>|\\leqslant|\\geqslant|\\leq?|\\geq?|\\lt|\\gt)(?![a-zA-Z])\s*")
_DOTS = re.compile(r"\s*(?:\\[lcd]?dots[cb]?|\.\.\.)\s*")
_MOST_LISTED = 100  # elements for which an ellipsis may stand
_WHERE = r"(?<=\S)\s*\\text\s*\{[\s,]*(?:for|where)(?: all| any)?\s*\}\s*[a-zA-Z]\s*(?:\\[gln]e?q?|[<>])[^,;]*$"
_THIN = r"(?:,?(?<!\\)\\[,;:! ]|~|\{,\})\s*"
_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|ln|log|exp|sqrt|pi|infty"
_DECIMAL = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)"  # a run of digits matches in one way only, or the time would be cubic
_PERCENTAGE = re.compile(rf"(?<![0-9]){_DECIMAL}\s*\\%")
_TRIGONOMETRIC = r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])(?:\s*\^\s*(?:[0-9]|\{[0-9]\}))?\s*[({]?\s*"
_DEGREES = r"([0-9]+(?:\.[0-9]+)?)\s*\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})"
_SIGN = re.compile(r"(\\pm|\\mp)(?![a-zA-Z])")
_SIGNS = {("\\pm", 1): "+", ("\\pm", -1): "-", ("\\mp", 1): "-", ("\\mp", -1): "+"}
_MAX_SIGNS = 3  # eight values


def _sub(pattern: str, replacement: str) -> Rule:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(replacement, text)


def _written_out(text: str) -> str:
    """Writes Unicode fractions, powers and roots as LaTeX."""
    for character, fraction in _VULGAR.items():
        text = text.replace(character, fraction)
    text = _SUPERSCRIPT.sub(lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _SUBSCRIPT.sub(lambda match: f"_{{{unicodedata.normalize('NFKC', match[0])}}}", text)
    return _ROOT_SIGN.sub(_root, text)


def _plain_characters(text: str) -> str:
    """Writes digits of every script, and letters that are another letter in another font, as the plain ones."""
    if text.isascii():
        return text
    plain = (str(unicodedata.decimal(c)) if c.isdecimal() else unicodedata.normalize("NFKC", c) for c in text)
    return "".join(new if len(new) <= 4 else c for c, new in zip(text, plain, strict=True)).translate(_UNICODE)


def _root(match: re.Match[str]) -> str:
    """A root sign covers the number or letter after it; `_braced_roots` handles a bracket after it."""
    return rf"\sqrt{_ROOT_SIGNS[match[1]]}" + (f"{{{match[2]}}}" if match[2] else "")


def _braced_roots(text: str) -> str:
    r"""Writes \sqrt(a) as \sqrt{a} if the bracket is closed."""
    position = 0
    while match := _PARENTHESISED_ROOT.search(text, position):
        position = match.end()
        end = _closing(text, position)
        if end is not None:
            text = f"{text[: match.start()]}\\sqrt{{{text[position + 1 : end]}}}{text[end + 1 :]}"
    return text


def _closing(text: str, start: int) -> int | None:
    """The index at which the round bracket at `start` closes, or None."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return None


def _last_line(text: str) -> str:
    """Replaces an aligned block by its last line, which is where a derivation ends."""
    match = _ALIGNED.search(text)
    if match is None:
        return text
    lines = [line for line in re.split(r"\\\\(?:\[[^\]]*\])?", match[2]) if line.strip()]
    return text[: match.start()] + (lines[-1].replace("&", "") if lines else "") + text[match.end() :]


def _printable(text: str) -> str:
    """Replaces control characters, NUL and lone surrogates, which carry no mathematics and break parsers."""
    return "".join(c if c.isprintable() else " " for c in text.translate(_UNICODE))


def _delimiters(text: str) -> str:
    r"""Strips \(...\) and \[...\] around the whole, and the punctuation that ends a sentence."""
    text = text.strip()
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(opening) and text.endswith(closing):
            text = text[2:-2]
    if text.startswith("{") and group_end(text, 0) == len(text) - 1:
        return _delimiters(text[1:-1])
    return text.strip().rstrip(".,;: ")


def _unquoted(text: str) -> str:
    """Strips Markdown's emphasis and quotation marks around the whole."""
    text = text.strip()
    for opening, closing in _QUOTES.items():
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening + closing):
            inside = text[len(opening) : -len(closing)]
            return text if opening in inside else _unquoted(inside)
    return text


def _magnitudes(text: str) -> str:
    r"""Writes 5 million and 5\text{ million dollars} with a power of ten."""

    def power(match: re.Match[str]) -> str:
        rest = f"\\text{{{match[3]}}}" if match[3] else ""
        return rf"\times 10^{{{_MAGNITUDES[match[2]]}}}{rest}"

    return _MAGNITUDE.sub(power, text)


def _round_brackets(text: str) -> str:
    """Writes the open ends of ]a, b[ with round brackets."""
    if "[" not in text and "]" not in text:
        return text

    def span(match: re.Match[str]) -> str:
        opening, inside, closing = match.groups()
        return f"{opening.replace(']', '(')}{inside}{closing.replace('[', ')')}"

    return _SPAN.sub(span, text)


def _set_builder(text: str) -> str:
    r"""Replaces \{x | condition on x} by the condition, if that is an inequality."""
    match = _BUILDER.fullmatch(text.strip())
    return match[2] if match and _RELATION.search(match[2]) and match[1] in match[2] else text


def _unions(text: str) -> str:
    """Writes inequalities that "or" or "and" joins as a union of intervals or as one interval."""
    alternatives = _OR.split(text)
    if len(alternatives) > 1:
        spans = [_interval(part) for part in alternatives]
        names = {span[0] for span in spans if span and span[0]}
        if all(spans) and len(names) <= 1:
            return r" \cup ".join(span[1] for span in spans if span)
    elif len(both := _AND.split(text)) == 2 and all(_RELATION.search(part) for part in both):
        spans = [_interval(part) for part in both]
        if spans[0] and spans[1] and spans[0][0] == spans[1][0]:
            low, high = sorted(spans, key=lambda span: r"(-\infty" not in span[1] if span else True)[::-1]
            if low and high and low[1].endswith(r"\infty)") and high[1].startswith(r"(-\infty"):
                return low[1].rpartition(",")[0] + "," + high[1].partition(",")[2]
    return text


def _interval(text: str) -> tuple[str, str] | None:
    """(variable, interval) of an inequality; ("", itself) of an interval; None of anything else."""
    text = text.strip().strip(",").strip()
    if re.fullmatch(r"[(\[][^()\[\],]+,[^()\[\],]+[)\]]", text):
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


def _listed(text: str) -> str:
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


def _percent(text: str) -> str:
    """Writes a percentage inside a formula as a fraction; one that stands alone is read as a plain number."""
    return text if plain_number(text) else _PERCENTAGE.sub(r"\\frac{\1}{100}", text)


def _plus_minus(text: str) -> str:
    r"""Writes a \pm b as the two values a+b, a-b; several \pm in one element are independent, unless \mp ties them."""
    if not _SIGN.search(text):
        return text
    braces = text.startswith("\\{") and text.endswith("\\}")
    parts = split_commas(text[2:-2] if braces else text)
    listed = ", ".join(value.strip() for part in parts for value in _signed(part))
    return f"\\{{{listed}\\}}" if braces else listed


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


RULES: tuple[tuple[str, Rule], ...] = (
    ("printable", _printable),
    ("written out", _written_out),
    ("plain characters", _plain_characters),
    ("aligned", _last_line),
    ("upright words", _sub(r"\{\s*\\rm\s+([a-zA-Z][a-zA-Z ]*)\}", r"\\text{\1}")),
    ("colours and boxes", _sub(_COLOUR, "")),
    ("fonts and sizes", _sub(_FONT, " ")),
    (
        "tags",
        _sub(
            r"\\(?:tag|label)\*?\s*\{[^{}]*\}|(?:[\\\s]*\\(?:blacksquare|square|Box|qed|checkmark)(?![a-zA-Z]))+\s*$",
            "",
        ),
    ),
    ("last line end", _sub(r"\\\\\s*$", "")),
    ("arrows", _sub(r"^\s*\\(?:therefore|implies|Rightarrow|Longrightarrow|rightarrow|to)(?![a-zA-Z])", "")),
    ("bold label", _sub(r"^\s*\*\*([^*]*[a-zA-Z]\s*:?)\*\*(?=\s*:|(?<=:\*\*))", r"\1")),
    ("quotation", _unquoted),
    ("Chinese labels", _sub(_HAN_LABEL, "")),
    ("Chinese counters", _sub(rf"(?<=[0-9])\s*(?![十百千万亿兆萬億半点分]){_HAN}$", "")),
    ("no solution in Chinese", _sub(r"^\s*无解\s*$", r"\\text{no solution}")),
    ("answer label in text", _sub(rf"^\s*\\text\s*\{{\s*(?i:{_LABEL})\}}\s*(?=\S)", "")),
    ("answer label", _sub(rf"^\s*(?i:{_LABEL})(?=[^\sa-zA-Z])", "")),
    ("display", _sub(r"\\(?:displaystyle|textstyle|limits|left|right|[bB]igg?[lrm]?)(?![a-zA-Z])\.?", " ")),
    ("wrappers", lambda text: unwrap(text, _UNWRAPPED)),
    ("text", _sub(_TEXT, r"\\text")),
    (
        "label before a colon",
        _sub(r"^\s*\\text\s*\{[^{}]*[a-zA-Z]{3}[^{}]*[:=]\s*\}\s*(?=\S)(?!.*\\text\s*\{[^{}]*[:=]\s*\})", ""),
    ),
    ("words before the answer", _sub(rf"^\s*\\text\s*\{{\s*(?i:{_LEAD})[\s,:]*\}}\s*(?=\S)", "")),
    ("formula in text", _sub(r"^\s*\\text\s*\{([^{}]*[a-zA-Z]\s*[:=]\s*[-+]?[0-9./]+\s*)\}\s*$", r"\1")),
    ("plain label", _sub(r"^\s*[a-zA-Z ]*[a-zA-Z]{3}\s*:\s*(?=[-+0-9\\])", "")),
    ("power of a unit", _sub(r"\\text\s*\{([^{}^]*)\^\s*\{?\s*([23])\s*\}?\s*\}", r"\\text{\1}^{\2}")),
    ("rates", _sub(r"\\frac\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}", r"\\text{\1/\2}")),
    (
        "inverse units",
        _sub(r"\\text\s*\{([^{}]*)\}\s*\\cdot\s*\\text\s*\{([^{}]*)\}\s*\^\s*\{\s*-1\s*\}", r"\\text{\1/\2}"),
    ),
    (
        "inverse units in text",
        _sub(
            r"\\text\s*\{\s*([a-z]+)(?:\\,|\\cdot|\s)+([a-z]+)\s*\}?\s*\^\s*\{\s*-1\s*\}(?:\s*\})?",
            r"\\text{\1/\2}",
        ),
    ),
    ("degrees in text", _sub(r"\\text\s*\{\s*(\^\s*\\circ)\s*\}", r"\1 ")),
    ("degree command", _sub(r"\^?\s*(?:\{\s*)?\\degree(?![a-zA-Z])(?:\s*\})?", r"^\\circ ")),
    (
        "degree as a letter",
        _sub(r"(?<=[0-9])\s*\^\s*(?:\{\s*(?:\\text\s*\{\s*)?o\s*\}{1,2}|o(?![a-zA-Z]))", r"^\\circ "),
    ),
    ("constant", _sub(r"\+\s*\\text\s*\{\s*const(?:ant)?\.?\s*\}", "+ C")),
    ("empty group", _sub(r"\{\s*\}(?=\s*\^)", "")),
    ("magnitudes", _magnitudes),
    (
        "ordinals",
        _sub(
            r"(?<=[0-9])\s*(?:\^\s*\{?\s*|\\textsuperscript\s*\{)?(?:\\text\s*\{\s*)?(?:st|nd|rd|th)\s*\}{0,2}\s*$", ""
        ),
    ),
    ("bases", _sub(r"\s*\(?\s*\\text\s*\{\s*\(?\s*base\s*\}?\s*([0-9]+)\s*\)?\s*\}?\s*$", r"_{\1}")),
    ("colons", _sub(r"\{:\}|\\colon(?![a-zA-Z])", ":")),
    ("ratios", _sub(r"(?<=[0-9a-z])\s*(?:\\text\s*\{\s*to\s*\}|(?<=\s)to(?=\s))\s*(?=[0-9a-z])", ":")),
    ("list in words", _sub(r"\s*,?\s*\\text\s*\{\s*[,;]\s*(?:and|or)\s*\}|\s*\\&", ", ")),
    ("apostrophes", _sub(r"(?<=[0-9])[\u2019'](?=[0-9]{3}(?![0-9]))", "")),
    ("powers of programs", _sub(r"\s*\*\*\s*\(?\s*(-?\w+)\s*\)?", r"^{\1}")),
    ("dotted period", _sub(r"(?<=\.)([0-9]*)(?:\\dot\s*\{([0-9])\}|\(([0-9]+)\))\s*$", r"\1\\overline{\2\3}")),
    (
        "period with an ellipsis",
        _sub(
            r"(?<=\.)([0-9]{0,12}?)(?:([0-9])\2\2+|([0-9]{2,6}?)\3+)\s*(?:\\[lcd]?dots|\.\.\.)\s*$",
            r"\1\\overline{\2\3}",
        ),
    ),
    ("text without words", _sub(r"\\text\s*\{([^{}a-zA-Z\\]*)\}", r"\1")),
    ("currency", _sub(r"\\\$|[$£€¥₹]|\\(?:pounds|euro)(?![a-zA-Z])|^\s*(?:USD|EUR|GBP)(?=[\s0-9])", "")),
    ("root sign", _sub(r"\\surd(?![a-zA-Z])", r"\\sqrt ")),
    ("thousands", _sub(rf"(?<=[0-9]){_THIN}(?=[0-9]{{3}}(?![0-9]))", "")),
    ("negative space", _sub(r"(?<!\\)\\!", "")),
    ("spaces", _sub(r"(?<!\\)\\[,;:> ]|~|\\q?quad(?![a-zA-Z])|\\[hv]space\*?\{[^{}]*\}", " ")),
    ("runs of blanks", _sub(r"\s{2,}", " ")),
    ("delimiters", _delimiters),
    ("fractions", _sub(r"\\(?:[dtcs]|nice|flat)frac(?![a-zA-Z])", r"\\frac")),
    ("braces", _sub(r"\\lbrace(?![a-zA-Z])", r"\\{")),
    ("braces, closing", _sub(r"\\rbrace(?![a-zA-Z])", r"\\}")),
    ("angles", _sub(r"\\langle(?![a-zA-Z])", "(")),
    ("angles, closing", _sub(r"\\rangle(?![a-zA-Z])", ")")),
    ("empty set", _sub(r"\\varnothing(?![a-zA-Z])|\\\{\s*\\\}", r"\\emptyset ")),
    (
        "no solution",
        _sub(
            r"^\s*\\text\s*\{\s*(?i:none|(?:the )?empty set"
            r"|(?:there (?:is|are) )?no (?:real )?(?:solutions?|values?))\s*\}\s*$",
            r"\\emptyset ",
        ),
    ),
    ("real numbers", _sub(r"^\s*\\text\s*\{\s*(?i:all reals?(?: numbers)?)\s*\}\s*$", r"\\mathbb{R}")),
    ("open ends", _round_brackets),
    ("semicolons", lambda text: text if "," in text else text.replace(";", ",")),
    ("set builder", _set_builder),
    ("unions", _unions),
    ("ellipsis", _listed),
    ("condition", _sub(_WHERE, "")),
    ("constants", _sub(r"\\text\s*\{\s*([ei])\s*\}", r" \1 ")),
    ("programs", _sub(r"(?<![a-zA-Z\\])(?:np|numpy|math|sympy)\.", "")),
    ("functions", _sub(rf"(?<![a-zA-Z\\{{])({_FUNCTIONS})(?![a-zA-Z])", r"\\\1 ")),
    ("roots", _braced_roots),
    ("approximately", _sub(r"^\s*(?:[a-zA-Z]\s*)?\\(?:approx|simeq|sim)(?![a-zA-Z])\s*", "")),
    ("degrees of an angle", _sub(rf"({_TRIGONOMETRIC}){_DEGREES}", r"\1\\frac{\2\\pi}{180}")),
    ("imaginary unit", _sub(r"(?<=[0-9])i(?![a-zA-Z])", " i")),
    ("scientific", _sub(rf"(?<![\w.}}\\]){_DECIMAL}[eE]\+?(-?[0-9]+)(?![\w.])", r"\1\\times 10^{\2}")),
    ("percent sign", _sub(r"\s*\\text\s*\{\s*(?:percent|\\?%)\s*\}|(?<=[0-9])\s*percent(?![a-zA-Z])|(?<!\\)%", r"\\%")),
    ("percent of a fraction", _sub(r"(\\frac\s*\{[^{}]*\}\s*\{[^{}]*\})\s*\\%", r"\\frac{\1}{100}")),
    ("percent", _percent),
    ("factorials", _sub(r"([0-9]+|[a-zA-Z])!\s*\^", r"(\1!)^")),
    ("mixed fractions", _sub(r"(?<![0-9.])([0-9]+) +([0-9]+)/([0-9]+)(?![0-9.])", r"\1\\frac{\2}{\3}")),
    ("products", _sub(r"(?<![_^\w.}\\])([0-9]+(?:\.[0-9]+)?)\s*\((?!\s*[a-z{}\\ ]*mod)", r"\1\\cdot (")),
    ("products of groups", _sub(r"\)\s*(?=\(|[0-9]|\\frac)", r")\\cdot ")),
    ("plus or minus", _plus_minus),
    ("blanks", _sub(r"\s+", " ")),
    ("ends", _delimiters),
)


def normalise(text: str) -> str:
    """The text in the spelling that the rest of the grader expects: all RULES applied in order."""
    for _, rule in RULES:
        text = rule(text)
    return text
