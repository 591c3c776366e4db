"""Parses and compares answers without a parser, and checks whether gold answers are plausible."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from phfcli.core.errors import UserError
from phfcli.core.grading.exact import (
    MAX_CHARS,
    MAX_SHORT,
    PlainNumber,
    Refused,
    agree,
    canonical,
    check,
    currency,
    plain_number,
    ratio,
    split_unit,
)
from phfcli.core.grading.latex import enclosure, last_box
from phfcli.core.grading.spelling import normalise, spelled_number
from phfcli.core.names import GoldForm

AS_WRITTEN = "\0"  # before a text that a worker has to read first; no read text holds a control character

_INTEGER_ALONE = re.compile("-?[0-9]{1,99}")
_MODULUS = re.compile(
    r"\s*(?:\(\s*(?:\\?b?mod|\\text\s*\{\s*mod\s*\})|\\p?mod|(?<=[0-9])\s+mod)(?![a-zA-Z])\s*\{?\s*([^{}()]+?)\s*[)}]*$"
)
_BASE = re.compile(r"\(?\s*([0-9A-F]+)\s*\)?\s*_\s*\{?\s*([0-9]+)\s*\}?")
_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+)(?:\.[0-9]+)?")
_WORD_BASE = re.compile(
    r"_\s*\{?\s*\\text\s*\{\s*(two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen)\s*\}\s*\}?$"
)
_EQUALS = re.compile(r"(?<![<>!:\\])=")
_SEVERAL = re.compile(r"[,;<>]|\b(?:or|and)\b|\\(?:text|ne|le|ge|neq|leq|geq|lt|gt|approx|lor|land|in)(?![a-zA-Z])")
_NAME = re.compile(r"\\?[a-zA-Z]+\s*(?:_\s*\{?\w+\}?)?\s*(?:\(\s*[a-zA-Z]\s*\))?")
_CLOCK = re.compile(r"[0-9]{1,2}\s*:\s*[0-5][0-9]")
_HALF_DAY = re.compile(
    rf"(?:\\text\s*\{{)?\s*({_CLOCK.pattern}|[0-9]{{1,2}})\s*(?:\\text\s*\{{)?\s*([apAP])\.?\s*[mM]\.?\s*\}}?"
)
_HALF_DAYS = {"noon": "PM", "midnight": "AM"}
_AMOUNT = re.compile(r"([0-9]+)\s*(?:\\text\s*\{\s*([a-z]+)\.?,?\s*(?:and\s*)?\}|([a-z]+)(?![a-zA-Z])),?\s*(?:and\s+)?")
_TWICE = re.compile(r"(?:\\text\s*\{)?\s*([a-zA-Z -]+?)\s*\(\s*([0-9]+)\s*\)\s*\}?")  # nine (9)
_SAME_WORDS = (  # what the words mean, whatever stands around them
    (re.compile(r"dne|(?:(?:the )?limit )?(?:does not|doesn't) exist"), "does not exist"),
    (re.compile(r"(?:there are )?(?:infinitely many|(?:an )?infinite(?: number of)?)(?: \w+)?"), "infinitely many"),
    (re.compile(r"(yes|no|true|false),.*"), None),
)
_ARTICLES = re.compile(r"(?:(?:(?:it|this) )?is )?(?:(?:on|in|at|by|the|an?) )?")
_CONDITION = re.compile(
    r"(?:\s*(?:\\cdot\s*)?[,;(]\s*|\s*\\text\s*\{[\s,]*(?:where|for|with)[^{}]*\}\s*)\(?\s*"
    r"([a-zA-Z])\s*\\in\s*(?:\\mathbb\s*\{?\s*[ZNR]\s*\}?|\\?[ZNR](?![a-zA-Z]))(?:\s*[\^_]\s*(?:\{[^{}]*\}|[+0*]))?\s*\)?\s*$"
)
_VARIABLE = re.compile(r"(?:(?<![a-zA-Z\\])|(?<=\\pi))\s?([a-zA-Z])(?![a-zA-Z])")
_INTEGER = re.compile(
    r"\s*[,(]?\s*\\text\s*\{[\s,]*(?:where|for|with)[^{}]*\}\s*([a-zA-Z])\s*"
    r"(?:\\text\s*\{\s*(?:is |are )?(?:an |any |arbitrary |a |real )*(?:integers?|constants?|numbers?)\s*\})?\s*\)?$"
)
_BOUND = re.compile(r"[<>]|\\(?:le|ge|leq|geq|lt|gt|ne|neq|in|mid)(?![a-zA-Z])")  # integers that x > 3 holds for
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_WRITTEN = re.compile(r"\\(?:text|mathbb)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z' -]*[.!]?|\([A-Za-z]\)")


@dataclass(frozen=True)
class Answer:
    """A parsed answer. `decide` compares two of them; comparing the fields is not enough."""

    text: str  # normalised, without unit and modulus
    unit: str | None = None  # canonical unit of measure; None without one or for an unknown one
    modulus: str | None = None
    name: str | None = None  # the left side, for an equation whose right side is a plain number
    number: PlainNumber | None = None
    parameter: str | None = None  # k, for a formula with "k in the integers" behind it
    words: str | None = None  # in lower case, if the whole answer is \text{words}
    raw: str = ""  # as written
    unread: bool = False  # too long for the calling process: the text is the raw one

    @property
    def key(self) -> str:
        """The text without spaces, \\text and \\mathbb; answers with equal keys are equal."""
        return _WRITTEN.sub(r"\1", self.text).replace(" ", "")

    @property
    def is_clock(self) -> bool:
        return _CLOCK.fullmatch(self.text) is not None


@lru_cache(maxsize=4096)
def read(raw: str) -> Answer:
    """Parses an answer or a gold answer as written in its box. Its `text` is empty if normalisation leaves nothing.

    Raises:
        Refused: text that must not reach the parser.
    """
    if len(raw) > MAX_CHARS:
        raise Refused(f"longer than {MAX_CHARS} characters")
    return replace(_read(raw), raw=raw)


def _read(raw: str) -> Answer:
    if _INTEGER_ALONE.fullmatch(raw):
        return Answer(raw, number=plain_number(raw))  # no rule changes it
    text = normalise(raw)
    text = _digits(text)
    if (words := _words(text)) is not None:
        twelve = _HALF_DAYS.get(words)
        return Answer("12:00", unit=twelve) if twelve else Answer(words, words=words)
    if half := _HALF_DAY.fullmatch(text):
        return Answer(half[1] if ":" in half[1] else f"{half[1]}:00", unit=f"{half[2].upper()}M")
    if (compound := _compound(text)) is not None:
        return compound
    text, parameter = _split_parameter(text)
    text, modulus = _split_modulus(text)
    text, unit = split_unit(text)
    unit = unit or currency(raw)
    text = _WORD_BASE.sub(lambda match: f"_{{{spelled_number(match[1])}}}", text)
    if in_base := _BASE.fullmatch(text):
        text, unit = in_base[1], f"base {in_base[2]}"
    text = _ungroup(text)
    name, number = _number(text)
    if number is None or name is not None:
        check(text)
    return Answer(text, unit, modulus, name, number, parameter)


def read_if_short(raw: str) -> Answer | None:
    """The parsed answer; None for a refused one. A long one is left unread: no clock stops the calling process."""
    if MAX_SHORT < len(raw) <= MAX_CHARS:
        return Answer(raw, raw=raw, unread=True)
    try:
        return read(raw)
    except Refused:
        return None


def decide(gold: Answer, answer: Answer) -> bool | None:
    """Whether `answer` equals `gold`, or None if that needs the parser."""
    if gold.modulus != answer.modulus:
        return False
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    if gold.key == answer.key:
        return True
    if gold.words is not None or answer.words is not None:
        return _same_words(gold, answer)
    if gold.number and answer.number and _comparable(gold, answer):
        return _congruent(gold, answer) or agree(gold.number, answer.number)
    if gold.is_clock and answer.is_clock:
        return _minutes(gold, answer) == _minutes(answer, gold)  # the parser reads 6:30 as 6/30
    if gold.is_clock != answer.is_clock and "00" in (gold.key[-2:], answer.key[-2:]):
        return False  # 12/00
    if (parts := ratio(gold.text)) or ratio(answer.text):
        return parts == ratio(answer.text)
    brackets = {enclosure(gold.text), enclosure(answer.text)}
    return False if brackets == {"{", "("} else None  # a set is no tuple


def _words(text: str) -> str | None:
    whole = _TEXT.fullmatch(text)
    words = whole[1].strip() if whole else text
    lowered = " ".join(words.strip("().!").lower().split())
    for pattern, meaning in _SAME_WORDS:
        if same := pattern.fullmatch(lowered):
            return meaning or same[1]
    if not _WORDS.fullmatch(words) or not (whole or words.startswith("(")):
        return None
    return _ARTICLES.sub("", lowered, count=1).removesuffix(" function").removesuffix(" number")


def _minutes(clock: Answer, other: Answer) -> int:
    """The minutes of a clock time; 16:20 is 4:20 PM where the other one says AM or PM."""
    hours, minutes = map(int, clock.text.split(":"))
    halves = {clock.unit, other.unit} & {"AM", "PM"}
    if halves and not (clock.unit is None and hours > 12):
        hours = hours % 12 + 12 * ("PM" in halves)
    return 60 * hours + minutes


def _compound(text: str) -> Answer | None:
    """An amount in several units, such as 1 hour 30 minutes: the amounts as a list, the units as one."""
    parts = [(match[1], canonical(match[2] or match[3])) for match in _AMOUNT.finditer(text)]
    if len(parts) < 2 or not all(unit for _, unit in parts) or _AMOUNT.sub("", text).strip(" ,"):
        return None
    return Answer(", ".join(amount for amount, _ in parts), unit="+".join(unit or "" for _, unit in parts))


def _digits(text: str) -> str:
    """A number in words whose digits stand behind it, such as nine (9), as the digits; any other text as it is."""
    twice = _TWICE.fullmatch(text)
    return twice[2] if twice and spelled_number(twice[1]) == int(twice[2]) else text


def _same_words(gold: Answer, answer: Answer) -> bool | None:
    """Compares words: equal if spelled alike; different from other words and from numbers; else undecided."""
    spelled = [" ".join(a.text.lower().split()) for a in (gold, answer)]
    if spelled[0] == spelled[1]:
        return True
    both_words = gold.words is not None and answer.words is not None
    return False if both_words or gold.number or answer.number else None


def _split_parameter(text: str) -> tuple[str, str | None]:
    match = _CONDITION.search(text) or _INTEGER.search(text)
    head = text[: match.start()] if match else ""
    if match is None or _BOUND.search(head) or match[1] not in _VARIABLE.findall(head):
        return text, None
    return text[: match.start()].strip(), match[1]


def _split_modulus(text: str) -> tuple[str, str | None]:
    match = _MODULUS.search(text)
    if not match or not match.start():
        return text, None
    rest = re.split(r"\\equiv(?![a-zA-Z])", text[: match.start()])[-1]
    return rest.strip(), match[1].replace(" ", "")


def _ungroup(text: str) -> str:
    """Removes thousands separators from a number that stands alone or is the last side of an equation."""
    start = text.rfind("=") + 1
    side = text[start:].strip()
    return text[:start] + re.sub("[, ]", "", side) if _GROUPED.fullmatch(side) else text


def _number(text: str) -> tuple[str | None, PlainNumber | None]:
    """(left side, number) of a plain number, or of an equation whose last side is a plain number."""
    *left, side = _EQUALS.split(text)
    if _SEVERAL.search("".join(left)):
        return None, None
    if len(left) == 1 and _NAME.fullmatch(side.strip()) and plain_number(left[0]):
        left, side = [side], left[0]  # 5 = x
    return ("=".join(left).strip() if left else None), plain_number(side)


def _comparable(gold: Answer, answer: Answer) -> bool:
    """Whether the last sides alone may be compared.

    An answer that is an equation counts as its last side; a gold does if its left side is a name. Two equations must
    have the same left side.
    """
    if answer.name is not None and gold.name is not None:
        return answer.name.replace(" ", "") == gold.name.replace(" ", "")
    return gold.name is None or _NAME.fullmatch(gold.name) is not None


def _congruent(gold: Answer, answer: Answer) -> bool:
    """Whether two residues of the same integer modulus differ by a multiple of it."""
    if not (gold.number and answer.number and gold.modulus and gold.modulus.isdecimal() and int(gold.modulus)):
        return False
    difference = gold.number.value - answer.number.value
    return difference.denominator == 1 and difference.numerator % int(gold.modulus) == 0


_LETTERED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit|boldsymbol)\s*\{\s*\(?([A-Za-z])\)?[.:]?\s*\}")
_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf|textit|boldsymbol)\s*\{([^{}]*)\}")
_OPTION_WORDS = re.compile(
    r"(?:(?:the )?(?:correct |final )?(?:answer|option|choice)(?: is)?\s*:?\s*|(?:故|所以|答案)?[是为:]?选[项择]?\s*)+",
    re.IGNORECASE,
)
_LETTER_ALONE = re.compile(r"\(?\s*([A-Za-z])\s*\)?\s*[.:,;]?")
_LABELLED = re.compile(r"(?:\(\s*([A-Za-z])\s*\)|([A-Za-z])\s*(?:[).:,;]|--?(?=\s)|[–—]|(?=\()))\s*(.*)", re.DOTALL)
_SECOND = re.compile(  # a second label, or a letter that is listed behind the first
    r"(?:^|[,/;&+|\s]|(?:^|\s)(?:and|or)\s)\s*(?:\(\s*[A-J]\s*\)|[A-J]\s*[).:](?=\s|$))|^\(?[A-J]\)?[.:]?$"
    r"|^(?:(?:and|or)\s|[,/;&+|]\s*)*\(?[A-J]\)?(?=\s*(?:$|,|/|;|&|\+|and\s|or\s))"
)
_LIST = re.compile(
    r"\(?[A-Ja-j]\)?(?:\s*(?:[,/;&+|]|\b(?:and|or)\b)+\s*(?:(?:and|or)\s+)?\(?[A-Ja-j]\)?)+[.]?|[A-J]{2,10}|[A-J](?:\s+[A-J])+"
)


def read_choice(text: str) -> tuple[str, str] | None:
    """(letter, text behind it) of a multiple choice: a letter alone, or a label before a delimiter.

    The letter is "" where several are given, which is no choice. None is an answer without a label.
    """
    if len(text) > MAX_CHARS:
        return None
    text = _LETTERED.sub(r"(\1) ", text.replace("\\&", "&"))
    text = re.sub(r"\\q?quad(?![a-zA-Z])|\\[ ,;:!]|~|\$", " ", _MARKUP.sub(r"\1", text))
    text = " ".join(text.strip().strip("*_`\"'【】").split())
    text = text[words.end() :] if (words := _OPTION_WORDS.match(text)) else text
    if alone := _LETTER_ALONE.fullmatch(text):
        return alone[1].upper(), ""
    if _LIST.fullmatch(text):
        return "", text
    label = _LABELLED.fullmatch(text)
    if label is None:
        return None
    return ("" if _SECOND.search(label[3]) else (label[1] or label[2]).upper()), label[3]


_NUMBER = re.compile(r"-?[0-9](?:[0-9,]*[0-9])?(?:\.[0-9]+)?(?:/[0-9]+)?")
_COMMAND = re.compile(r"\\(?:text|mathrm|mbox|textbf)\s*\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{3,}")
_LONGEST = 200  # characters of a plausible gold answer
_MOST_WORDS = 6  # of a plausible gold answer that is text
_FUNCTIONS = frozenset(
    {"sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "infinity", "infty", "arcsin", "arccos", "arctan"}
    | {"sinh", "cosh", "tanh", "and", "or", "mod", "numpy", "math", "sympy", "percent"}
    | {"unit", "units", "integer", "integers", "number", "numbers"}
)


@dataclass(frozen=True)
class Doubt:
    """Why a gold answer is implausible, and the value of the setting `gold` that would fix it, if there is one."""

    reason: str
    form: GoldForm | None


def last_number(text: str) -> str:
    """The last number of a text, without thousands commas; empty if there is none."""
    numbers = _NUMBER.findall(text)
    return numbers[-1].replace(",", "") if numbers else ""


def after_hashes(text: str) -> str:
    """The text after the last ####, without thousands commas: the answers of GSM8K."""
    return re.sub(r"(?<=\d),(?=\d{3})", "", text.rpartition("####")[2].strip())


GOLD_FORMS: dict[GoldForm, Callable[[str], str]] = {
    "as-is": str.strip,
    "last-box": lambda text: last_box(text) or "",
    "after-hashes": after_hashes,
    "last-number": last_number,
}


def doubt(gold: str) -> Doubt | None:
    """Why a gold answer is implausible, or None if it is plausible."""
    if "####" in gold:
        return Doubt("it holds ####", "after-hashes")
    if "\\boxed" in gold:
        return Doubt("it holds a \\boxed", "last-box")
    if len(gold) > _LONGEST or "\n" in gold.strip():
        return Doubt("it is as long as a solution", "last-number")
    words = [word for word in _WORD.findall(_COMMAND.sub(" ", gold)) if word.lower() not in _FUNCTIONS]
    words = [word for word in words if canonical(word) is None]
    if words and any(character.isdigit() for character in gold):
        return Doubt("it has words beside its number", "last-number")
    return Doubt("it is a sentence", None) if len(words) > _MOST_WORDS else None


def check_plausible(golds: Sequence[str], source: str) -> str | None:
    """A warning if some gold answers are implausible, else None.

    Args:
        source: the name of the data, for the message.

    Raises:
        UserError: most gold answers are implausible.
    """
    doubts = [(gold, why) for gold in golds if (why := doubt(gold)) is not None]
    if not doubts:
        return None
    gold, first = doubts[0]
    shown = gold if len(gold) <= 60 else f"{gold[:60]}..."
    fix = (
        f"set gold to {first.form}"
        if first.form
        else "give a column of short answers, or grade with a function: grader=FILE.py:NAME"
    )
    message = (
        f"{source}: {len(doubts)} of {len(golds)} gold answers are not plausible answers, such as {shown!r} "
        f"({first.reason}): right completions would be graded wrong; {fix}"
    )
    if 2 * len(doubts) > len(golds):
        raise UserError(message)
    return message
