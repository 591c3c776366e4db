"""`docs/models.md` is what its program writes."""

from pathlib import Path

import pytest
from model_matrix import as_markdown, run_matrix

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the families' own code in transformers
def test_every_family_does_what_the_page_says() -> None:
    rows = run_matrix()
    assert len(rows) >= 26
    assert as_markdown(rows) == PAGE.read_text(encoding="utf-8")
