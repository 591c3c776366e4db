"""The shipped recipes: each value has a source, the page is made from them, and each can be run."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from recipe_table import as_markdown, values

from phfcli.core.shipped_files import recipes

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_value_names_its_source(name: str) -> None:
    without = [value.key for value in values(recipes()[name]) if value.source is None]
    assert not without, f"write `# paper: ...`, `# code: ...` or `# ours: ...` behind {without}"


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_value_stands_on_a_line_of_its_own(name: str) -> None:
    path = recipes()[name]
    assert [value.key for value in values(path)] == leaves(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_a_value_without_a_source_is_found(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("# x\noptim:\n  lr: 1 # because\n  betas: [0, 1] # ours: a try\nsteps: 3\n")
    assert [(value.key, value.source) for value in values(file)] == [
        ("optim.lr", None),
        ("optim.betas", ("ours", "a try")),
        ("steps", None),
    ]


def test_the_page_is_made_from_the_recipes() -> None:
    assert as_markdown() == PAGE.read_text(encoding="utf-8"), "python tests/support/recipe_table.py docs/recipes.md"


def leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return found
