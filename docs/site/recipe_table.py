"""The site's page on the recipes, made from the recipes themselves.

Each value of a recipe stands on a line of its own with its source as a comment, `# KIND: WHERE`. KIND is `paper` (where
in it), `code` (whose, and which script or class) or `ours` (why).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phfcli.core.shipped_files import recipes

_FOR_EDITORS = "# yaml-language-server:"  # the line that names the schema
_LINE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?P<rest>.*)")
_SOURCE = re.compile(r"(?P<kind>paper|code|ours): (?P<where>\S.*)")

HEADING = """# Recipes, and where each value comes from

Made from `recipes/*.yaml`; a test refuses a value without a source. **paper** is a published text, **code** a
published program (figures only), **ours** is neither, with the reason.

`phf train --config A --config B` lays B over A; every setting that no recipe names is a default of
`phfcli/core/config/`. A recipe `MODEL-NAME` lies by itself after `NAME` where the model is that of recipe `MODEL`:
`embedded-grpo` says what `grpo` has to be for the embedded model.

The published OPSD code exists in two versions that users could not bring into one: scripts (`opsd-script*`,
`opsd-top-k`, `grpo-script`: nothing is clipped, both sides think, rate 2e-4) and a later recipe in its issue tracker
(`opsd-forward-kl`: forward KL, clip 0.05, rate 5e-6, a student that does not think). The paper of PHF has a third set
of values (`qwen3-*`). Their prompts are their own; to train with such a wording, write it to a file with `{problem}`
and `{solution}` and give `--teacher-prompt FILE`, for the student `--set prompt.student="$(cat FILE)"` with
`{problem}`.

Where a published script cuts GRPO's rollouts by top-p or top-k, its preset does not: the trainer's log-probabilities
are of the whole distribution, the engine's would be renormalised over the part that was left, and their ratio would
be wrong by the part that was cut.
"""


@dataclass(frozen=True)
class Value:
    """A value of a recipe and the comment behind it."""

    key: str
    value: str
    comment: str

    @property
    def source(self) -> tuple[str, str] | None:
        """Its kind and where it is, or None where the comment names none."""
        match = _SOURCE.fullmatch(self.comment)
        return None if match is None else (match["kind"], match["where"])


def values(path: Path) -> Iterator[Value]:
    """Every value of a recipe, in order. Raises ValueError for a line that holds no value and no section."""
    section: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{path.name}: a recipe has one value a line: {line}")
        section = [*section[: len(match["indent"]) // 2], match["key"]]
        value, _, comment = match["rest"].partition(" #")
        if value.strip():
            yield Value(".".join(section), value.strip(), comment.strip())


def title(path: Path) -> str:
    """The comment at a recipe's top, as one paragraph."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(_FOR_EDITORS)]
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))


def as_markdown() -> str:
    """The page: a table for each recipe."""
    return "\n".join([HEADING, *(_table(name, path) for name, path in recipes().items())])


def _table(name: str, path: Path) -> str:
    lines = [f"## {name}", "", title(path), "", "| setting | value | source | |", "|---|---|---|---|"]
    for value in values(path):
        kind, where = value.source or ("", "")
        lines.append(f"| `{value.key}` | `{value.value}` | {kind} | {where} |")
    return "\n".join([*lines, ""])
