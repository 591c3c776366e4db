"""`docs/models.md` says what its program finds: every family, tiny, through all that phf does with a model."""

import re
from pathlib import Path

import pytest
from families import FAMILIES, Family
from model_matrix import HEADING, REFUSED, examine, line_of

PAGE = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the families' own code in transformers
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.kind)
def test_a_family_does_what_the_page_says(family: Family, tmp_path: Path) -> None:
    row = examine(family, tmp_path)
    assert line_of(row) in PAGE.splitlines()
    for sentence in row.left_out:
        (note,) = [line for line in PAGE.splitlines() if line.startswith(f"- {sentence} (")]
        assert f"`{family.kind}`" in note


def test_the_page_has_every_family() -> None:
    _, *kinds = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert kinds == [family.kind for family in FAMILIES]
    assert PAGE.startswith(HEADING.format(working=len(FAMILIES), count=len(FAMILIES)))
    assert PAGE.endswith(REFUSED)
