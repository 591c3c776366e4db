"""Makes text from files and models safe to show."""

import re
from collections.abc import Sequence


def printable(text: str) -> str:
    """The text with a replacement mark for each control character and each lone surrogate.

    So it may stand on a terminal, in a picture or on a page.
    """
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def markdown_lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as Markdown, line by line."""
    header, *body = [[markdown_cell(cell) for cell in row] for row in (columns, *rows)]
    return [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *body]]


def markdown_cell(cell: str) -> str:
    """The text escaped for Markdown, because names come from files."""
    plain = " ".join(cell.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|`*_\[\]])", r"\\\1", plain)


def as_yaml(value: object) -> str:
    """A value as YAML has it, on one line."""
    import yaml

    return str(yaml.safe_dump([value], default_flow_style=True, width=10**6, allow_unicode=True)).strip()[1:-1]
