"""The schema of every JSON file that this program reads back, and readers that check it.

A file that does not fit its schema is a UserError that names file and field. Fields that the schema does not name are
kept. Seals are compared (seals.py); a line of an earlier version may carry a checksum in the field `sum`.
"""

import datetime
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, PositiveInt, StrictStr, ValidationError

from phfcli.core.errors import UserError
from phfcli.core.storage.files import parse_lines, raw_lines, read_json, read_whole
from phfcli.core.storage.seals import check_sealed, sound_lines

Share = Annotated[float, Field(ge=0, le=1)]
Count = NonNegativeInt


class Form(BaseModel):
    """The fields that this program reads; a file may have others. A subclass's docstring names its file in errors."""

    model_config = ConfigDict(extra="allow", strict=False)


class TrainerForm(Form):
    """trainer.json of a checkpoint"""

    step: Count
    model: StrictStr
    schedule: dict[str, Any]
    sha256: dict[str, StrictStr] = {}


class ModelForm(Form):
    name: StrictStr


class ManifestForm(Form):
    """manifest.json of a run"""

    created: StrictStr
    model: ModelForm
    divergence: StrictStr | None = None  # the kind that the metric of this name is of; unknown of runs of 0.2
    resumed: list[dict[str, Any]] = []


class StepForm(Form):
    """a line of metrics.jsonl"""

    step: PositiveInt


class AlarmForm(Form):
    """a line of alarms.jsonl"""

    step: PositiveInt
    alarm: StrictStr
    sentence: StrictStr


class ValidationForm(Form):
    """a line of evaluations.jsonl"""

    step: PositiveInt
    bench: StrictStr
    average: Share


class RolloutForm(Form):
    student_prompt: list[Count]
    teacher_prompt: list[Count]
    completion: list[Count]
    problem: StrictStr
    context: StrictStr
    tokens: list[StrictStr]
    student: list[FiniteFloat]
    teacher: list[FiniteFloat]
    divergence: list[FiniteFloat]
    clip_took: list[FiniteFloat]
    flow: dict[str, FiniteFloat]


class RolloutsForm(Form):
    """a file of rollouts that a run followed"""

    step: PositiveInt
    rollouts: list[RolloutForm]


class AdapterForm(Form):
    """an adapter_config.json of LoRA"""

    r: PositiveInt
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, Any] | None = None
    bias: StrictStr = "none"
    base_model_name_or_path: StrictStr | None = None


class PromptForm(Form):
    day: datetime.date | None = None


class EvaluationSettingsForm(Form):
    """settings.json of an evaluation"""

    model: dict[str, Any] = {}
    seed: int | None = None
    sampling: dict[str, Any] = {}
    prompt: PromptForm = PromptForm()
    grading: StrictStr = "phf"


class SampleForm(Form):
    """a line of samples.jsonl"""

    problem: StrictStr
    sample: Count
    status: Literal["correct", "wrong", "no_answer", "truncated", "timeout", "error", "bad_gold"]
    answer: StrictStr | None
    tokens: Count = 0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    gold: StrictStr | None = None
    golds: list[StrictStr] = []
    text: StrictStr = ""
    cut: bool = False
    looped: bool | None = None  # not known of samples of an earlier version


class StampForm(Form):
    size: Count
    time: int
    sha256: StrictStr


class SummaryForm(Form):
    """a summary of an evaluation"""

    bench: StrictStr
    average: Share
    target: StrictStr
    step: Count | None = None
    n: PositiveInt | None = None
    problems: Count | None = None
    stderr: Annotated[FiniteFloat, Field(ge=0)] | None = None
    pass_at_k: dict[str, Share] | None = None
    greedy: Share | None = None
    greedy_stderr: Annotated[FiniteFloat, Field(ge=0)] | None = None
    scores: dict[str, list[Share]] = {}
    files: dict[str, StampForm] = {}


def read_form(path: Path, form: type[Form]) -> dict[str, Any]:
    """The content of a JSON file. Raises UserError, naming file and field, if it does not fit the form."""
    tree = _checked(str(path), form, read_json(path))
    if path.suffix == ".json":
        check_sealed(path)
    return without_seal(tree)


def read_forms(path: Path, form: type[Form], but_last: bool = False) -> list[dict[str, Any]]:
    """The lines of a JSON Lines file, or those before its last one; none if there is no file. Raises as `each_form`."""
    return list(each_form(path, form, read_whole(path).splitlines(keepends=True)[:-1] if but_last else None))


def each_form(path: Path, form: type[Form], raw: Iterable[bytes] | None = None) -> Iterator[dict[str, Any]]:
    """The lines of a JSON Lines file, one at a time: those of samples take more memory together than there may be.

    Raises:
        UserError: naming file, line and field, for a line that does not fit the form or its checksum.
    """
    lines = sound_lines(path, raw_lines(path) if raw is None else raw)
    for number, line in enumerate(parse_lines(path, lines), start=1):
        where = f"{path} line {number}"
        tree = _checked(where, form, line)
        if "sum" in tree and tree["sum"] != line_sum(tree):
            raise UserError(f"{where}: its content is not what was written (checksum); the file is damaged")
        yield without_seal(tree)


def check_forms(path: Path, form: type[Form]) -> None:
    """Checks the lines of a JSON Lines file, and keeps none. Raises as `each_form`."""
    for _ in each_form(path, form):
        pass


def without_seal(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key != "seal"}


def line_sum(line: Mapping[str, Any]) -> str:
    """A checksum over all fields of a line except the checksum."""
    content = json.dumps({key: value for key, value in line.items() if key != "sum"}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _checked(where: str, form: type[Form], tree: Any) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise UserError(f"{where}: expected an object with named fields, {form.__doc__}")
    try:
        form.model_validate(tree)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise UserError(f"{where}: {field}: {message[:1].lower()}{message[1:]}; expected {form.__doc__}") from None
    return tree
