"""The description of each setting: the docstring under its field, which the documentation and the schema show."""

import inspect

from pydantic import BaseModel


def setting_notes(kind: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """The description of each setting that has one, by dotted key, inner sections included."""
    notes: dict[str, str] = {}
    for name, field in kind.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            notes |= setting_notes(field.annotation, f"{prefix}{name}.")
        elif field.description:
            notes[prefix + name] = field.description
    return notes
