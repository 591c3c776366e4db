"""The grading policies, one grader each. They differ only in what counts as the answer and in when it is right.

All policies check gold answers and count votes as `Grader` does, so a benchmark has the same problems under each.
"""

import re
from collections.abc import Callable, Sequence

from phfcli.core.grading.grader import (
    MEMORY_BYTES,
    STATUS_OF,
    Grade,
    Grader,
    Grading,
    RuleGrader,
    Status,
    best_status,
    choice,
    find_rule,
    usable_cpus,
)
from phfcli.core.grading.latex import last_box, split_thinking
from phfcli.core.grading.pool import Pool
from phfcli.core.names import PolicyName

_MATH_VERIFY = "phfcli.core.grading.judge:judge_whole_text"
# "flexible-extract" of GSM8K in lm-evaluation-harness, copied exactly; it also matches text such as "$."
_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_FULL_STOP = re.compile(r"\.$")
_LAST_NUMBER = "phfcli.core.grading.policies:judge_last_number"

Pairs = Sequence[tuple[str | Sequence[str], str]]


class NoThinking(Grader):
    """The policy `phf` on the text after the thinking, so a box in the thinking alone is no answer."""

    def grade(self, pairs: Pairs) -> list[Grade]:
        return super().grade([(gold, split_thinking(text)[1]) for gold, text in pairs])


class Strict(Grader):
    """Compares the last box, or the whole text without a box, with the gold character by character."""

    reads_cut = True

    def grade(self, pairs: Pairs) -> list[Grade]:
        return [self._best(_golds(gold), text) for gold, text in pairs]

    def _best(self, golds: Sequence[str], text: str) -> Grade:
        answer = last_box(text) if "\\boxed" in text else text.strip()
        if not answer:
            return Grade(Status.no_answer, None)
        return Grade(Status.correct if any(answer == gold.strip() for gold in golds) else Status.wrong, answer)


class Judged(Grader):
    """Workers judge the text that `text_of` extracts from a completion; None is no answer.

    Args:
        judge: the function that judges, as "module:function"; it returns a verdict, a space and the answer.
    """

    reads_cut = True

    def __init__(
        self,
        judge: str,
        text_of: Callable[[str], str | None] = lambda text: text.strip() or None,
        workers: int | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        super().__init__(workers, timeout_s)
        self._text_of = text_of
        self._judges = Pool(usable_cpus() if workers is None else workers, timeout_s, MEMORY_BYTES, judge)

    def close(self) -> None:
        super().close()
        self._judges.close()

    def grade(self, pairs: Pairs) -> list[Grade]:
        texts = [self._text_of(text) for _, text in pairs]
        needed = [(gold, text) for (golds, _), text in zip(pairs, texts, strict=True) if text for gold in _golds(golds)]
        distinct = list(dict.fromkeys(needed))
        verdicts = dict(zip(distinct, self._judges.judge(distinct), strict=True))
        return [
            _grade([verdicts[gold, text] for gold in _golds(golds)]) if text else Grade(Status.no_answer, None)
            for (golds, _), text in zip(pairs, texts, strict=True)
        ]


def build_grader(name: str, timeout_s: float = 5.0, policy: PolicyName = "phf") -> Grading:
    """The grader of that name: "math" under a policy, "choice", or a registered plugin rule.

    Args:
        timeout_s: wall-clock seconds for one judgement of "math".
        policy: of "math"; the other graders have no policies.
    """
    if name == "choice":
        return RuleGrader(choice, "choice")
    if name != "math":
        return find_rule(name)
    builders: dict[PolicyName, Callable[[], Grading]] = {
        "phf": lambda: Grader(timeout_s=timeout_s),
        "no-thinking": lambda: NoThinking(timeout_s=timeout_s),
        "math-verify": lambda: Judged(_MATH_VERIFY, timeout_s=timeout_s),
        "last-box": lambda: Judged(_MATH_VERIFY, _boxed, timeout_s=timeout_s),
        "last-number": lambda: Judged(_LAST_NUMBER, _with_last_number, timeout_s=timeout_s),
        "strict": lambda: Strict(timeout_s=timeout_s),
    }
    return builders[policy]()


def _golds(gold: str | Sequence[str]) -> Sequence[str]:
    return (gold,) if isinstance(gold, str) else gold or ("",)


def _grade(judgements: Sequence[str]) -> Grade:
    words = [judgement.partition(" ") for judgement in judgements]
    return Grade(best_status([STATUS_OF[word] for word, _, _ in words]), words[0][2] or None)


def _boxed(text: str) -> str | None:
    """The last box alone, written as a box again, because math-verify looks for one."""
    content = last_box(text)
    return None if content is None else rf"\boxed{{{content}}}"


def _with_last_number(text: str, size: int = 1000) -> str | None:
    """The end of a text from where its last number is found; what stands before does not change which one it is."""
    start = max(len(text) - size, 0)
    while start and text[start] in "-$0123456789.,":
        start -= 1
    found = start == 0 or _NUMBER.search(text, start)
    return text[start:].strip() or None if found else _with_last_number(text, 2 * size)


def judge_last_number(gold: str, text: str) -> str:
    """The verdict, a space, and the last number of the text."""
    numbers = _NUMBER.findall(text)
    if not numbers:
        return "no_answer"
    answer = next(part for part in numbers[-1] if part)
    return f"{'equal' if _without_marks(answer) == _without_marks(gold) else 'different'} {answer}"


def _without_marks(text: str) -> str:
    text = text.replace(",", "").replace("$", "").rpartition("#### ")[2]
    return _FULL_STOP.sub("", text).strip().lower()
