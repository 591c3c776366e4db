"""What a teacher is shown of a problem under each context."""

import json
from pathlib import Path

import pytest

from phfcli.core.config import PromptSettings
from phfcli.core.errors import UserError
from phfcli.core.grading import last_box
from phfcli.core.models.description import load_tokenizer
from phfcli.core.models.prompts import build_prompts
from phfcli.core.names import CONTEXTS
from phfcli.core.runs.contexts import Context, answer_of, check_differs, columns_in, first_third, with_answer
from phfcli.core.runs.problems import load_problems
from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.types import Problem

PROBLEMS = [
    Problem(str(n), f"add {n} and 8", f"We add: {n}+8={n + 8}. \\boxed{{{n + 8}}}", str(n + 8)) for n in (1, 2, 3, 12)
]
ONE = PROBLEMS[0]
LATER = ("other-problem", "reference-only", "reference-free")


def shown(name: str, problem: Problem = ONE, seed: int = 0) -> str:
    return Context(name, PROBLEMS, seed).text(problem)


def test_the_reference_its_first_third_and_its_answer() -> None:
    assert shown("reference") == ONE.solution
    assert shown("first-third") == "We add:"
    assert shown("answer") == "9"
    assert shown("answer", Problem("x", "p", "so \\boxed{7}")) == "7"
    assert shown("sibling") == ""  # it is drawn
    assert (shown("reference-free"), shown("reference-only")) == ("", ONE.solution)


@pytest.mark.parametrize("seed", range(20))
def test_another_problems_reference_has_another_answer(seed: int) -> None:
    twin = Problem("twin", "p", "\\boxed{9}", "9")
    context = Context("other-reference", [*PROBLEMS, twin], seed)
    for problem in (*PROBLEMS, twin):
        assert last_box(context.text(problem)) != answer_of(problem)
        assert context.text(problem) == context.text(problem)
    with pytest.raises(UserError, match="no other problem has another text and another answer than twin"):
        Context("other-reference", [twin, ONE], seed).text(twin)


@pytest.mark.parametrize("seed", range(20))
def test_an_example_is_another_problem_with_its_own_solution(seed: int) -> None:
    same_text = Problem("twin", f"{ONE.problem} ", "\\boxed{77}", "77")
    context = Context("other-problem", [same_text, *PROBLEMS], seed)
    others = {f"{other.problem}\n\nIts solution:\n\n{other.solution}" for other in PROBLEMS[1:]}
    assert context.text(ONE) in others
    assert context.text(same_text) in others
    with pytest.raises(UserError, match="no other problem has another text and another answer than 1"):
        Context("other-problem", [same_text, ONE], seed).text(ONE)


def test_each_context_has_its_prompt() -> None:
    prompts = build_prompts(load_tokenizer("embedded"), PromptSettings(thinking=False, teacher_thinking=True))
    told = {name: Context(name, PROBLEMS).prompt(prompts, ONE) for name in ("reference", *LATER)}
    assert "add 1 and 8" in told["other-problem"]
    assert "An unrelated example" in told["other-problem"]
    assert "add 1 and 8" not in told["reference-only"]
    assert ONE.solution is not None
    assert ONE.solution in told["reference-only"]
    assert told["reference-free"] + "<think>\n\n</think>\n\n" == prompts.student_text(ONE.problem)
    for name, text in told.items():
        assert prompts.tokenizer.decode(Context(name, PROBLEMS).prompt_ids(prompts, ONE)) == text


@pytest.mark.parametrize("modes", [(True, True), (False, False), (True, None)])
def test_a_teacher_that_reads_what_the_student_reads_is_refused(modes: tuple[bool, bool | None]) -> None:
    settings = PromptSettings(thinking=modes[0], teacher_thinking=modes[1])
    with pytest.raises(UserError, match="same weights and the same prompt, so the loss is 0"):
        check_differs(Context("reference-free"), build_prompts(load_tokenizer("embedded"), settings))


def test_so_is_one_whose_template_has_no_modes(tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    settings = PromptSettings(teacher_thinking=False, chat_template=str(template))
    with pytest.raises(UserError, match="modes that the chat template has"):
        check_differs(Context("reference-free"), build_prompts(load_tokenizer("embedded"), settings))


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_wrong_answer_is_planted_wherever_the_right_one_stands(problem: Problem) -> None:
    text, answer = shown("wrong-answer", problem), answer_of(problem)
    wrong = last_box(text)
    assert wrong != answer
    assert f"={wrong}." in text
    assert f"={answer}." not in text


def test_whole_numbers_alone_are_replaced() -> None:
    assert with_answer("19+1=1.9, 9. \\boxed{9}", "9", "4") == "19+1=1.9, 4. \\boxed{4}"
    assert with_answer("a half", "1/2", "3") == "a half \\boxed{3}"
    assert with_answer("\\frac12 \\boxed{\\frac12}", None, "\\pi") == "\\pi \\boxed{\\pi}"


def test_an_error_of_a_targets_context_names_the_target() -> None:
    with pytest.raises(UserError, match=r"^target=answer: problem bare has neither an answer nor"):
        Context("answer", PROBLEMS, 0, "target").text(Problem("bare", "p", "text"))


def test_a_text_of_short_words_is_cut_between_them() -> None:
    assert first_third("ab cd ef gh ij kl") == "ab cd"
    assert first_third("abcdefghi") == "abc"


def test_a_problem_without_an_answer_is_named() -> None:
    for name in ("answer", "wrong-answer"):
        with pytest.raises(UserError, match="problem bare has neither an answer nor"):
            shown(name, Problem("bare", "p", "text"))


def test_any_column_of_the_data_may_be_shown(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"problem": "p", "solution": "s", "answer": "1", "hint": "try {x}", "level": 3}))
    name = "At level {level}: {hint}, {answer}, {nothing else}"
    assert columns_in(name) == ("level", "hint")
    table = load_problems(resolve_train(set_sources([f"data={path}", f"teacher.context='{name}'"])))
    assert Context(name, table).text(table[0]) == "At level 3: try {x}, 1, {nothing else}"
    with pytest.raises(UserError, match=r"no column 'hind', which teacher.context or target names; did you mean .hint"):
        load_problems(resolve_train(set_sources([f"data={path}", "teacher.context='{hind}'"])))


def test_a_context_is_a_name_or_a_text_with_a_column() -> None:
    for name in (*CONTEXTS, "see {hint}"):
        assert resolve_train(set_sources([f"teacher.context='{name}'"])).teacher.context == name
    with pytest.raises(UserError, match=r"teacher.context: 'anser' is unknown; did you mean 'answer'.*\{COLUMN\}"):
        resolve_train(set_sources(["teacher.context=anser"]))
    with pytest.raises(UserError, match="an external teacher reads the problem alone"):
        resolve_train(set_sources(["teacher.kind=external", "teacher.model=x", "teacher.context=answer"]))
