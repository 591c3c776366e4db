"""What each setting means: the text under its field, read by the site; pydantic puts it into the schema for editors."""

import inspect

from pydantic import BaseModel


def setting_notes(kind: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """The description of each setting that has one, by dotted key; those of inner sections too."""
    notes: dict[str, str] = {}
    for name, field in kind.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            notes |= setting_notes(field.annotation, f"{prefix}{name}.")
        elif field.description:
            notes[prefix + name] = field.description
    return notes
