"""The shipped recipes: each value has a source, the page of the site shows them all, and each can be run."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from recipe_table import as_markdown, values

from phfcli.core.config import is_line
from phfcli.core.shipped_files import recipes


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


def test_the_page_has_every_value_of_every_recipe_with_its_source() -> None:
    sections = as_markdown().split("\n## ")[1:]
    assert [section.partition("\n")[0] for section in sections] == list(recipes())
    for section, path in zip(sections, recipes().values(), strict=True):
        rows = [(f"`{v.key}`", f"`{v.value}`", *(v.source or ())) for v in values(path)]
        assert [tuple(row[2:-2].split(" | ")) for row in section.splitlines() if row.startswith("| `")] == rows


def leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and not is_line(value) else [prefix + key]
    return found
