"""What each named policy takes for the answer, and when it is right: worked out by hand from docs/grading.md."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phfcli.core.errors import UserError
from phfcli.core.grading import Status, build_grader
from phfcli.core.grading.grader import Grading
from phfcli.core.grading.policies import _with_last_number, judge_last_number
from phfcli.core.names import POLICIES, PolicyName

BOXED = r"So $m+n=204$ and the answer is $\boxed{204}$"
THOUGHT = "<think>\nIt may be $\\boxed{5}$\n</think>\nI am not sure."

# gold, completion, and of each policy that calls it right
CASES: list[tuple[str, str, set[PolicyName]]] = [
    ("204", BOXED, {"phf", "no-thinking", "math-verify", "last-box", "last-number", "strict"}),
    ("204", BOXED + ".", {"phf", "no-thinking", "math-verify", "last-box", "strict"}),  # "$." is what lm-eval reads
    ("1234", "1,234 in all\n#### 1,234", {"math-verify", "last-number"}),
    ("12", "The answer is 12.", {"math-verify", "last-number"}),
    ("12", "12", {"math-verify", "last-number", "strict"}),
    ("1/2", r"$\boxed{0.5}$", {"phf", "no-thinking", "math-verify", "last-box"}),
    ("5", THOUGHT, {"phf", "math-verify", "last-box", "last-number", "strict"}),
    ("20", r"$\boxed{20}$ for 3 reasons", {"phf", "no-thinking", "math-verify", "last-box", "strict"}),
    ("7", r"First $\boxed{7}$, then $\boxed{8}$", set()),
    ("42", "I do not know.", set()),
    ("103", r"$\boxed{103\%}$", {"math-verify", "last-box", "last-number"}),  # a percent sign is no hundredth to them
    (r"\sqrt{12}", r"$2\sqrt{3}$", {"math-verify"}),
]


@pytest.fixture(scope="module")
def graders() -> Iterator[dict[PolicyName, Grading]]:
    found = {policy: build_grader("math", 20.0, policy) for policy in POLICIES}
    yield found
    for grader in found.values():
        grader.__exit__(None, None, None)


@pytest.mark.parametrize(("gold", "text", "right"), CASES)
def test_each_policy_reads_what_it_says(
    graders: dict[PolicyName, Grading], gold: str, text: str, right: set[PolicyName]
) -> None:
    grades = [(name, grader.grade([(gold, text)])[0]) for name, grader in graders.items()]
    assert {name for name, grade in grades if grade.status == Status.correct} == right


@pytest.mark.parametrize("policy", POLICIES)
def test_any_accepted_answer_counts_and_order_is_kept(graders: dict[PolicyName, Grading], policy: PolicyName) -> None:
    pairs = [(("9", "204"), BOXED), ("9", BOXED), (("204", "9"), BOXED)]
    assert [g.status for g in graders[policy].grade(pairs)] == [Status.correct, Status.wrong, Status.correct]


def test_no_answer_is_told_from_a_wrong_one(graders: dict[PolicyName, Grading]) -> None:
    for policy in ("phf", "no-thinking", "math-verify", "last-box", "last-number"):
        assert graders[policy].grade([("42", "I do not know.")])[0].status == Status.no_answer
    assert graders["no-thinking"].grade([("5", "<think>\nIt is $\\boxed{5}$")])[0].status == Status.no_answer


@pytest.mark.slow
def test_a_text_that_never_ends_is_a_failure_of_the_grader() -> None:
    with build_grader("math", 2.0, "math-verify") as grader:
        hostile, sound = grader.grade([("1", r"$\boxed{9^{9^{9^{9}}}!}$"), ("1", r"$\boxed{1}$")])
    assert hostile.status in (Status.timeout, Status.error)
    assert sound.status == Status.correct


def test_no_text_runs_as_python(graders: dict[PolicyName, Grading], tmp_path: Path) -> None:
    text = f"answer: 1+__import__('pathlib').Path('{tmp_path}/hit').touch()"
    for grader in graders.values():
        grader.grade([("1", text), (text, r"$\boxed{1}$")])
    assert not any(tmp_path.iterdir())


def test_policies_and_rules_of_ones_own_do_not_mix() -> None:
    with pytest.raises(UserError, match="'nobody' is unknown"):
        build_grader("nobody", 5.0, "strict")


def test_the_last_number_takes_linear_time_under_the_limit_of_the_workers(graders: dict[PolicyName, Grading]) -> None:
    start = time.monotonic()
    [grade] = graders["last-number"].grade([("1", "1." * 500_000)])
    assert grade.status is Status.wrong
    assert time.monotonic() - start < 5
    with build_grader("math", 0.001, "last-number") as hurried:
        assert hurried.grade([("1", "1." * 2_000_000)])[0].status is Status.timeout


def test_the_end_of_a_text_has_the_last_number_of_the_whole() -> None:
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choices("17.,$- ab", weights=[1, 1, 1, 1, 1, 1, 4, 9, 9], k=rng.randrange(1, 40)))
        end = _with_last_number(text, size=3)
        assert judge_last_number("7", end or "") == judge_last_number("7", text), text
