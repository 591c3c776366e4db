"""What the settings are made of: sections, and values that are checked."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from phfcli.core.errors import nearest
from phfcli.core.extensions import known
from phfcli.core.names import CONTEXTS, ENGINES, GRADERS, OBJECTIVES, TEACHERS, TRACKERS

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Aggregate = Literal["token", "sequence"]


class Section(BaseModel):
    """A group of settings: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_known_engine = known("engines", ENGINES, ", or the http://HOST:PORT of a vLLM server")


def _engine(name: str, info: ValidationInfo) -> str:
    return name if name.startswith(("http://", "https://")) else _known_engine(name, info)


def _context(text: str) -> str:
    if text in CONTEXTS or re.search(r"\{\w+\}", text):
        return text
    raise ValueError(f"{text!r} is unknown; {nearest(text, CONTEXTS)}, or a text with {{COLUMN}} of the data")


def _layer(layer: object) -> object:
    """A decoder block, 1 is the first; or how deep it lies: "50%" is the middle one."""
    if isinstance(layer, int) and layer >= 1:
        return layer
    share = re.fullmatch(r"(\d+(?:\.\d+)?)%", str(layer))
    if share and 0 < float(share[1]) <= 100:
        return layer
    raise ValueError("a block is its number, 1 is the first, or a share of the depth such as 50%")


EngineName = Annotated[str, AfterValidator(_engine)]
Context = Annotated[str, AfterValidator(_context)]
ObjectiveChoice = Annotated[str, AfterValidator(known("objectives", OBJECTIVES))]
TeacherChoice = Annotated[str, AfterValidator(known("teachers", TEACHERS))]
TrackerChoice = Annotated[str, AfterValidator(known("trackers", TRACKERS))]
GraderChoice = Annotated[str, AfterValidator(known("graders", GRADERS))]
Layers = tuple[Annotated[int | str, BeforeValidator(_layer)], ...]
LayerChoice = Layers | Literal["last", "all", "even", "odd"]  # "even" is 2, 4, ...
