"""What kind a token is of."""

import pytest

from phfcli.core.analysis.probe_tokens import token_kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("7", "digit"),
        (" 12", "digit"),
        ("+", "operator"),
        ("\\boxed{", "operator"),
        (" therefore", "word"),
        ("</think>", "think boundary"),
        ("\n\n", "space and punctuation"),
        (" ", "space and punctuation"),
        (",", "space and punctuation"),
        ("\ufffd\x00", "other"),
    ],
)
def test_the_first_rule_that_fits_decides(text: str, kind: str) -> None:
    assert token_kind(text, ends=False) == kind
    assert token_kind(text, ends=True) == "end"
