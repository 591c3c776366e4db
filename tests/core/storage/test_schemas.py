"""Files that are read back: of their form, or named with their field."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from mutations import VALID_FORMS

from phfcli.core.errors import UserError
from phfcli.core.storage import schemas
from phfcli.core.storage.schemas import Form, SampleForm, each_form, line_sum, read_form, read_forms
from phfcli.core.storage.seals import append_sealed


def write(path: Path, tree: Any) -> Path:
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.parametrize("form", VALID_FORMS)
def test_a_valid_file_is_read_as_it_stands(tmp_path: Path, form: type[Form]) -> None:
    assert read_form(write(tmp_path / "f.json", VALID_FORMS[form]), form) == VALID_FORMS[form]


@pytest.mark.parametrize(
    ("form", "change", "words"),
    [
        (schemas.SummaryForm, {"average": 40.0}, "average: must be less than or equal to 1"),
        (schemas.SampleForm, {"status": "excellent"}, "status: must be 'correct'"),
        (schemas.SampleForm, {"problem": 3}, "problem: must be a valid string"),
        (schemas.TrainerForm, {"step": -1}, "step: must be greater than or equal to 0"),
        (schemas.AdapterForm, {"r": None}, "r: must be a valid integer"),
        (schemas.ManifestForm, {"model": "m"}, "model: must be a valid dictionary"),
    ],
)
def test_another_form_is_named_by_its_field(
    tmp_path: Path, form: type[Form], change: dict[str, Any], words: str
) -> None:
    path = write(tmp_path / "f.json", VALID_FORMS[form] | change)
    with pytest.raises(UserError) as caught:
        read_form(path, form)
    assert str(caught.value).startswith(f"{path}: {words}")
    assert str(caught.value).endswith(f"; expected {form.__doc__}")


@pytest.mark.parametrize("content", ["[]", "3", "null", "{", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\ud800"])
def test_what_is_no_object_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"f\.json: ") as caught:
        read_form(path, schemas.StepForm)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_of_a_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    plain = [VALID_FORMS[schemas.SampleForm] | {"sample": number} for number in range(3)]
    lines = [line | {"sum": line_sum(line)} for line in plain]  # as version 0.2 wrote them
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_forms(path, schemas.SampleForm) == lines
    path.write_text(path.read_text().replace('"sample": 1', '"sample": 7'))
    with pytest.raises(UserError, match="line 2: its content is not what was written"):
        read_forms(path, schemas.SampleForm)


def test_long_samples_are_read_one_at_a_time(tmp_path: Path) -> None:
    """All samples of a long thinking evaluation would take more memory than there may be."""
    sample = {"problem": "p", "status": "wrong", "answer": None, "text": "x" * 200_000}
    append_sealed(tmp_path / "s.jsonl", [{**sample, "sample": number} for number in range(50)])
    tracemalloc.start()
    assert sum(1 for _ in each_form(tmp_path / "s.jsonl", SampleForm)) == 50
    assert tracemalloc.get_traced_memory()[1] < 3_000_000  # of ten million bytes
    tracemalloc.stop()
