"""Files that are read back: of their form, or named with their field; and any mutation of one reads or is refused."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from phfcli.core.errors import UserError
from phfcli.core.storage import schemas
from phfcli.core.storage.schemas import Form, read_form, read_forms, with_sum

VALID: dict[type[Form], dict[str, Any]] = {
    schemas.TrainerForm: {"step": 3, "model": "m", "schedule": {"last_epoch": 3}, "sha256": {"a": "b"}},
    schemas.ManifestForm: {"created": "now", "model": {"name": "m"}, "resumed": [{"step": 1}]},
    schemas.StepForm: {"step": 1, "loss": 0.5},
    schemas.ValidationForm: {"step": 1, "bench": "b", "average": 0.5},
    schemas.AdapterForm: {"r": 8, "rank_pattern": {"q": 4}, "base_model_name_or_path": "m"},
    schemas.EvaluationSettingsForm: {"model": {"name": "m"}, "seed": 0, "sampling": {"top_p": 1}, "prompt": {}},
    schemas.SampleForm: {"problem": "p", "sample": 0, "status": "correct", "answer": None, "tokens": 3, "text": "t"},
    schemas.SummaryForm: {"bench": "b", "average": 0.5, "target": "t", "step": None, "n": 2, "scores": {"p": [0, 1]}},
}
OTHERS = [None, True, -1, 10**30, 0.5, 40.0, float("inf"), "", "text", [], [1], {}, {"a": 1}, [[[]]]]


def write(path: Path, tree: Any) -> Path:
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.parametrize("form", VALID)
def test_a_valid_file_is_read_as_it_stands(tmp_path: Path, form: type[Form]) -> None:
    assert read_form(write(tmp_path / "f.json", VALID[form]), form) == VALID[form]


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
    path = write(tmp_path / "f.json", VALID[form] | change)
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
    lines = [with_sum(VALID[schemas.SampleForm] | {"sample": number}) for number in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_forms(path, schemas.SampleForm) == lines
    path.write_text(path.read_text().replace('"sample": 1', '"sample": 7'))
    with pytest.raises(UserError, match="line 2: its content is not what was written"):
        read_forms(path, schemas.SampleForm)


def mutated(tree: Any, draw: random.Random) -> Any:
    """The tree with one thing changed: a key lost or renamed, or a value replaced, at any depth."""
    tree = copy.deepcopy(tree)
    if isinstance(tree, dict) and tree:
        key = draw.choice(list(tree))
        kind = draw.random()
        if kind < 0.2:
            del tree[key]
        elif kind < 0.3:
            tree[f"{key}x"] = tree.pop(key)
        elif kind < 0.6 and isinstance(tree[key], dict | list) and tree[key]:
            tree[key] = mutated(tree[key], draw)
        else:
            tree[key] = draw.choice(OTHERS)
        return tree
    if isinstance(tree, list) and tree:
        tree[draw.randrange(len(tree))] = draw.choice(OTHERS)
        return tree
    return draw.choice(OTHERS)


@pytest.mark.parametrize("form", VALID)
def test_a_mutation_is_read_as_it_stands_or_refused_by_name(tmp_path: Path, form: type[Form]) -> None:
    draw, path = random.Random(form.__name__), tmp_path / "f.json"
    for _ in range(250):
        tree = mutated(VALID[form], draw)
        write(path, tree)
        try:
            read = read_form(path, form)
        except UserError as error:
            said = str(error)
        else:
            said = f"{path}: "
            assert json.dumps(read) == json.dumps(tree)
        assert said.startswith(f"{path}: ")
