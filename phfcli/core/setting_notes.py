"""What each setting means: the comment beside its field, written once and read by the site and by editors."""

import inspect
import re
from typing import Any

from pydantic import BaseModel

from phfcli.core.config import Section

_FIELD = re.compile(r"^    (\w+): .*?(?:  # (.*))?$")


def setting_notes(kind: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """The comment beside each field of the settings, or above it, by dotted key; those of inner sections too."""
    notes = {prefix + name: note for name, note in _own_notes(kind).items()}
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if inspect.isclass(inner) and issubclass(inner, Section):
            notes |= setting_notes(inner, f"{prefix}{name}.")
    return notes


def described_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of the settings, each with what it means, as an editor shows it."""
    schema = kind.model_json_schema()
    sections = {section.__name__: section for section in _sections(kind)}
    for name, part in {kind.__name__: schema, **schema["$defs"]}.items():
        for field, note in _own_notes(sections[name]).items():
            if "$ref" not in part["properties"][field]:
                part["properties"][field]["description"] = note
    return schema


def _own_notes(kind: type[BaseModel]) -> dict[str, str]:
    notes: dict[str, str] = {}
    for model in [base for base in reversed(kind.__mro__) if issubclass(base, Section)]:
        above = ""
        for line in inspect.getsource(model).splitlines():
            if (field := _FIELD.match(line)) and field[1] in kind.model_fields:
                notes[field[1]] = field[2] or above
            above = line.strip().removeprefix("# ") if line.strip().startswith("#") else ""
    return {name: note for name, note in notes.items() if note}


def _sections(kind: type[BaseModel]) -> list[type[BaseModel]]:
    inner = [field.annotation for field in kind.model_fields.values()]
    return [kind, *(s for one in inner if inspect.isclass(one) and issubclass(one, Section) for s in _sections(one))]
