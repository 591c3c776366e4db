"""phf verify: a sound run is ok, and each planted damage is named with what to do."""

import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phfcli.core.analysis.verify import verify_run

Phf = Callable[..., Any]


TABLE = "evals/step-000002/embedded-n1/samples.parquet"


def flip(path: Path, place: int = -20) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def without_the_last_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def test_a_sound_run_is_ok(phf: Phf, run: Path) -> None:
    done = phf("verify", run, "--full", "--json")
    assert done.code == 0
    assert done.json["ok"]
    parts = {finding["part"]: finding["state"] for finding in done.json["findings"]}
    assert set(parts.values()) == {"ok"}
    assert {"manifest.json", "checkpoints/step-000002", "flows/step-000001.safetensors"} <= set(parts)
    assert {"evals/step-000002/embedded-n1", "evals/step-000002/embedded-n1/samples.parquet"} <= set(parts)
    assert {"rollouts/step-000001.json", "rollouts/step-000002.json"} <= set(parts)


@pytest.mark.parametrize(
    ("file", "damage", "part", "words"),
    [
        ("checkpoints/step-000002/adapter_model.safetensors", flip, "checkpoints/step-000002", "checksum"),
        ("checkpoints/step-000002/adapter_config.json", flip, "checkpoints/step-000002", "checksum"),
        ("checkpoints/step-000001/optimizer.safetensors", flip, "checkpoints/step-000001", "checksum"),
        ("flows/step-000002.safetensors", flip, "flows/step-000002.safetensors", "checksum"),
        ("manifest.json", lambda path: path.write_text("[]"), "manifest.json", "expected an object"),
        ("manifest.json", lambda path: path.unlink(), "manifest.json", "no such file"),
        ("metrics.jsonl", lambda path: path.write_text('{"step": 0}\n'), "metrics.jsonl", "line 1: step"),
        ("metrics.jsonl", without_the_last_line, "metrics.jsonl", "every step up to that of the newest checkpoint"),
        ("alarms.jsonl", lambda path: path.write_text('{"step": 1, "alarm": "clip"}\n'), "alarms.jsonl", "sentence"),
        ("rollouts/step-000001.json", lambda path: path.write_text("{}"), "rollouts/step-000001.json", "step"),
        ("evals/step-000002/embedded-n1/samples.jsonl", flip, "evals/step-000002/embedded-n1", "line 2"),
        (TABLE, flip, TABLE, "checksum"),
    ],
)
def test_a_planted_damage_is_named(
    phf: Phf, run: Path, file: str, damage: Callable[[Path], object], part: str, words: str
) -> None:
    damage(run / file)
    done = phf("verify", run, "--json")
    assert done.code == 1
    [bad] = [finding for finding in done.json["findings"] if finding["state"] not in ("ok", "in use")]
    assert bad["part"] == part
    assert words in bad["reason"]
    assert bad["advice"]
    assert phf("verify", run).out.count(part) >= 1


def test_a_flipped_bit_of_any_file_is_named(run: Path) -> None:
    """Checkpoints, settings, metrics, flows, rollouts, evaluation: wherever the bit is, its file or folder is told."""
    draw = random.Random(0)
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and path.stat().st_size]
    assert len(files) > 25
    for path in files:
        content = path.read_bytes()
        digits = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
        place = draw.choice([draw.randrange(len(content)), draw.choice(digits or [0])])
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(3)]) + content[place + 1 :])
        bad = [check for check in verify_run(run) if check.state not in ("ok", "in use")]
        assert [path.name in f"{check.part} {check.reason}" for check in bad] == [True], (path, place, bad)
        path.write_bytes(content)
    assert {check.state for check in verify_run(run)} == {"ok"}


def test_what_lies_under_the_name_of_another_step_is_named(phf: Phf, run: Path) -> None:
    shutil.copytree(run / "checkpoints/step-000001", run / "checkpoints/step-000007")
    shutil.copytree(run / "evals/step-000002", run / "evals/step-000001")
    shutil.copy(run / "rollouts/step-000001.json", run / "rollouts/step-000007.json")
    bad = [check.part for check in verify_run(run) if check.state not in ("ok", "in use")]
    assert bad == [
        "metrics.jsonl",
        "checkpoints/step-000007",
        "rollouts/step-000007.json",
        "evals/step-000001/embedded-n1",
    ]
    assert "is of step 2, and lies among the evaluations of step 1" in phf("compare", run, "other=run").err


def test_a_summary_that_was_copied_alone_is_read(phf: Phf, run: Path, tmp_path: Path) -> None:
    for name in ("summary.json", "renamed.json"):
        (tmp_path / "alone").mkdir(exist_ok=True)
        shutil.copy(run / EVALUATION / "summary.json", tmp_path / "alone" / name)
        assert phf("compare", tmp_path / "alone" / name).code == 0
    (run / EVALUATION / "samples.jsonl").unlink()
    assert "samples.jsonl: is missing" in phf("compare", run).err


@pytest.mark.slow
def test_an_evaluation_that_is_killed_while_it_ends_goes_on(
    phf: Phf, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its last files is being written, the others say nothing wrong."""
    for name in ("write_page", "write_summary"):
        with monkeypatch.context() as patch:
            patch.setattr(f"phfcli.core.evaluation.evaluator.{name}", lambda *_, **__: sys.exit(9))
            assert phf(*EVAL).code == 9
        assert {check.state for check in verify_run(run)} == {"ok"}
        assert phf("compare", "run").code == 2  # it has no evaluation now
        assert phf(*EVAL).code == 0
        assert {check.state for check in verify_run(run)} == {"ok"}


NEWEST, EVALUATION = "checkpoints/step-000002", "evals/step-000002/embedded-n1"
EVAL = ("eval", "run", "--limit", 2, "--n", 1, "--engine", "transformers", "--quiet")
RESUME = ("train", "--resume", "--output-dir", "run", "--steps", 3, "--quiet")
PUSH, COLLECT = ("push", "run", "me/x", "--dry-run"), ("collect", "run", "-o", "flows.safetensors")
READERS = {
    "config.yaml": [RESUME, EVAL, ("compare", "run", "elsewhere"), ("report", "run"), ("config", "diff", "run", "phf")],
    "metrics.jsonl": [RESUME, ("report", "run"), ("watch", "run")],
    "alarms.jsonl": [("report", "run")],  # a resumed run drops a damaged last line, with a warning
    "manifest.json": [EVAL, ("report", "run"), ("watch", "run")],
    "rollouts/step-000001.json": [("report", "run")],
    "flows/step-000002.safetensors": [("report", "run"), ("diagnose", "run")],
    f"{NEWEST}/tokenizer.json": [EVAL, ("export", "run", "--merged", "out", "--quiet"), PUSH],
    f"{NEWEST}/chat_template.jinja": [EVAL, COLLECT],
    f"{NEWEST}/trainer.json": [EVAL, COLLECT, PUSH],
    f"{NEWEST}/teacher.safetensors": [COLLECT],
    f"{EVALUATION}/summary.json": [
        ("compare", "run", "elsewhere"), ("report", "run"), PUSH, ("watch", "run")
    ],
    f"{EVALUATION}/samples.jsonl": [
        EVAL, ("compare", "run", "elsewhere"), ("report", "run"), ("watch", "run"),
        PUSH, ("grade", f"run/{EVALUATION}"),
    ],
    f"{EVALUATION}/settings.json": [EVAL, ("compare", "run", "elsewhere"), ("report", "run")],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("file", READERS)
def test_what_reads_a_damaged_file_names_it_in_a_line(phf: Phf, run: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(run, tmp_path / "elsewhere")
    content = (run / file).read_bytes()
    middle = (content.index(b"\n") if file.endswith(".jsonl") else len(content)) // 2  # a damaged last line is dropped
    place = re.compile(rb"[0-9]|.", re.DOTALL).search(content, middle).start()  # type: ignore[union-attr]
    flip(run / file, place)
    for command in READERS[file]:
        done = phf(*command)
        assert (done.code, done.err.count("\n")) == (2, 1), (command, done)
        assert Path(file).name in done.err, command


@pytest.mark.slow
def test_resuming_goes_back_beyond_a_flipped_bit_and_evaluating_it_is_refused(phf: Phf, run: Path) -> None:
    last = run / "checkpoints/step-000002"
    flip(last / "adapter_model.safetensors")
    done = phf("eval", last, "--limit", 2, "--n", 1, "--engine", "transformers", "--quiet")
    assert done.code == 2
    assert f"{Path('run/checkpoints/step-000002/adapter_model.safetensors')}: damaged" in done.err
    done = phf("train", "--resume", "--steps", 3, "--output-dir", "run", "--quiet")
    assert done.code == 0
    assert "going back to step 1" in done.err


@pytest.mark.slow
def test_a_damaged_manifest_does_not_keep_a_run_from_going_on(phf: Phf, run: Path) -> None:
    (run / "manifest.json").write_text("{")
    assert phf("train", "--resume", "--steps", 3, "--output-dir", "run", "--quiet").code == 0
    assert (run / "damaged-manifest.json").read_text() == "{"
    assert phf("verify", run, "--quiet").code == 0


def test_what_is_no_run(phf: Phf, run: Path) -> None:
    shutil.rmtree(run)
    run.mkdir()
    assert phf("verify", run).code == 2
