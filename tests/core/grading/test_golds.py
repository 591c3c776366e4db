"""Golds out of cells of many forms, and the ones that are no plausible answers."""

import pytest

from phfcli.core.errors import UserError
from phfcli.core.grading.answers import GOLD_FORMS, check_plausible, doubt


@pytest.mark.parametrize(
    ("form", "cell", "gold"),
    [
        ("as-is", " 1/2 ", "1/2"),
        ("last-box", r"\boxed{1}, so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("after-hashes", "3*4=12\n#### 1,234", "1234"),
        ("last-number", "The answer is 1,087.", "1087"),
        ("last-number", "from 3 to -4.5", "-4.5"),
        ("last-number", "none", ""),
    ],
)
def test_forms(form: str, cell: str, gold: str) -> None:
    assert GOLD_FORMS[form](cell) == gold  # type: ignore[index]


@pytest.mark.parametrize(
    "gold",
    [
        "87",
        "073",
        "27.0",
        r"\frac{1}{576}",
        "4.5e33",
        "np.arcsin(10/13)",
        "East",
        r"\text{(C)}",
        "5 cm",
        "x = 5",
        "a, b",
        r"12 \text{ students}",
        "2 weeks",
        r"(-\infty, 3)",
        r"x \in [0, 1]",
        "3 sqrt(2)",
        "6 - 5i",
        "Evelyn",
        "5 dollars",
        r"\{1, 2\}",
        "1 and 2",
        r"\sin 20^\circ",
        "Monday and Tuesday",
    ],
)
def test_plausible(gold: str) -> None:
    assert doubt(gold) is None


@pytest.mark.parametrize(
    ("gold", "form"),
    [
        ("The answer is 87.", "last-number"),
        ("12 students", "last-number"),
        ("3*4=12\n#### 12", "after-hashes"),
        (r"so \boxed{4}", "last-box"),
        ("x" * 300, "last-number"),
        ("nothing but many words which never lead anyone towards any number", None),
    ],
)
def test_implausible(gold: str, form: str | None) -> None:
    found = doubt(gold)
    assert found is not None
    assert found.form == form


def test_some_are_a_warning_and_most_are_refused() -> None:
    assert check_plausible(["1", "2"], "b") is None
    warning = check_plausible(["1", "2", "12 students"], "b")
    assert warning is not None
    assert "b: 1 of 3 gold answers are not plausible answers, such as '12 students'" in warning
    assert "set gold to last-number" in warning
    with pytest.raises(UserError, match="2 of 3 gold answers"):
        check_plausible(["1", "12 students", "13 students"], "b")
