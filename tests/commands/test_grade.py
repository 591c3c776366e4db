"""phf grade, and phf eval under another policy, as a user types them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Phf = Callable[..., Any]

FILES = Path(__file__).parents[1] / "core" / "analysis" / "files"
EVAL = ("eval", "embedded", "--limit", 4, "--n", 2, "--quiet", "--engine", "transformers")
ATTACK = "\x1b[31m[bold]<script>"


@pytest.mark.slow
def test_phf_grades_its_own_samples_as_it_did(phf: Phf) -> None:
    summary = phf(*EVAL, "--json").json["benches"][0]
    report = phf("grade", summary["folder"], "--policies", "phf,last-number", "--json").json
    rows = {row["name"]: row for row in report["scores"]}
    assert rows["phf"]["average"] == rows["stored: phf"]["average"] == summary["average"]
    assert {"a": "phf", "b": "stored: phf", "difference": 0.0, "samples": 0} in report["disagreements"]


def test_the_table_shows_where_they_differ_and_escapes(phf: Phf, tmp_path: Path) -> None:
    rows = [{"answer": "7", "completion": f"{ATTACK} 7"}, {"answer": "8", "completion": r"\boxed{8}"}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = phf("grade", "mine.jsonl", "--policies", "phf,strict,math-verify", "-o", "differing.jsonl")
    assert done.code == 0
    assert "\x1b" not in done.out
    assert "0/0, gold 7: phf no_answer (-), strict wrong (�[31m[bold]<script> 7), math-verify correct (7)" in done.out
    [line] = [json.loads(line) for line in (tmp_path / "differing.jsonl").read_text().splitlines()]
    assert line["policies"]["math-verify"] == {"status": "correct", "answer": "7"}
    assert line["text"] == rows[0]["completion"]


@pytest.mark.slow
def test_half_a_character_is_shown_and_written(phf: Phf, tmp_path: Path) -> None:
    (tmp_path / "half.jsonl").write_text('{"answer": "7", "completion": "\\ud800 7"}\n')
    done = phf("grade", "half.jsonl", "--json", "-o", "differing.jsonl")
    assert done.code == 0
    assert done.json["differing"][0]["text"] == "\ud800 7"
    assert json.loads((tmp_path / "differing.jsonl").read_text())["text"] == "\ud800 7"
    assert phf("grade", "half.jsonl").code == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere.jsonl",), "nowhere.jsonl: no such file"),
        ((FILES / "inspect.json", "--policies", "ours"), "--policies: 'ours' is unknown"),
        ((FILES / "inspect.json", "-o", "page.html"), "use a name that ends in .jsonl"),
        ((FILES / "inspect.json", "--set", "columns.gold=x"), "columns.gold: unknown key"),
    ],
)
def test_mistakes_are_one_line(phf: Phf, args: tuple[object, ...], message: str) -> None:
    done = phf("grade", *args)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("mine.jsonl", "-o", "mine.jsonl"),
        ("mine.jsonl", "--output=./mine.jsonl"),
        ("-o", "link.jsonl", "mine.jsonl"),
        (".", "-o", "mine.jsonl"),
    ],
)
def test_the_samples_are_not_replaced_by_the_report(phf: Phf, tmp_path: Path, words: tuple[str, ...]) -> None:
    samples = '{"answer": "7", "completion": "7"}\n'
    (tmp_path / "mine.jsonl").write_text(samples)
    (tmp_path / "link.jsonl").symlink_to("mine.jsonl")
    done = phf("grade", *words)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "which is read" in done.err or "is read too" in done.err
    assert (tmp_path / "mine.jsonl").read_text() == samples


@pytest.mark.slow
def test_a_policy_is_a_part_of_an_evaluation(phf: Phf, tmp_path: Path) -> None:
    ours = phf(*EVAL, "--json").json["benches"][0]
    other = phf(*EVAL, "--json", "--set", "grading=last-number").json["benches"][0]
    assert "grading" not in ours
    assert other["grading"] == "last-number"
    assert "graded under the policy last-number" in other["notes"][0]
    folder = tmp_path / "runs/embedded/evals/embedded-n2+graded-last-number"
    assert other["folder"] == str(folder.relative_to(tmp_path))
    assert json.loads((folder / "settings.json").read_text())["grading"] == "last-number"
    assert json.loads((folder.parent / "embedded-n2" / "settings.json").read_text())["grading"] == "phf"
    report = phf("grade", folder, "--policies", "last-number", "--json").json  # one implementation
    assert report["scores"][0]["average"] == other["average"]
    refused = phf("compare", f"a={ours['folder']}", f"b={other['folder']}")
    assert refused.code == 2
    assert "grading phf / last-number" in refused.err


def test_an_old_folder_is_of_our_policy(phf: Phf, tmp_path: Path) -> None:
    """Evaluations from before there were policies say nothing of theirs, and are gone on with."""
    phf(*EVAL)
    path = tmp_path / "runs/embedded/evals/embedded-n2/samples.jsonl"
    settings = json.loads(path.with_name("settings.json").read_text())
    settings.pop("grading")
    path.with_name("settings.json").write_text(json.dumps(settings))
    before = path.read_bytes()
    assert phf(*EVAL, "--set", "grading=phf").code == 0
    assert path.read_bytes() == before


def test_a_cut_completion_is_counted_under_policies_that_read_it(phf: Phf) -> None:
    cut = (*EVAL, "--max-new-tokens", 12, "--json")
    assert phf(*cut).json["benches"][0]["truncated"] == 8
    other = phf(*cut, "--set", "grading=last-number").json["benches"][0]
    assert other["truncated"] == 8
    assert other["completed_average"] is None
