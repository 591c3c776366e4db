"""A run goes on from what it began with: data, base weights, template, by their contents."""

import datetime
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from trained import SMALL

from phfcli.core.config import TrainConfig
from phfcli.core.runs.folder import note_settings
from phfcli.core.shipped_files import embedded_model

Phf = Callable[..., Any]


def begin(phf: Phf, tmp_path: Path) -> list[Any]:
    """A step of training on files of one's own; returns the options of the run."""
    shutil.copytree(embedded_model(), tmp_path / "base")
    rows = [{"problem": f"{n} + 2?", "solution": f"It is \\boxed{{{n + 2}}}", "answer": n + 2} for n in range(4)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "chat.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    shutil.copy(tmp_path / "data.jsonl", tmp_path / "bench.jsonl")
    files = ["--model", "base", "--data", "data.jsonl", "--set", "prompt.chat_template=chat.jinja"]
    files += ["--set", "evaluation.bench=bench.jsonl", "--set", "evaluation.every=1", "--set", "evaluation.n=1"]
    options = [*files, "--output-dir", "run", *SMALL]
    done = phf("train", *options, "--steps", 1, "--quiet")
    assert done.code == 0, done.err
    return options


def edit_data(folder: Path) -> None:
    path = folder / "data.jsonl"
    path.write_text(path.read_text().replace("It is", "It was"))


def edit_bench(folder: Path) -> None:
    path = folder / "bench.jsonl"
    path.write_text(path.read_text().replace('"answer": 3', '"answer": 4'))


def edit_weights(folder: Path) -> None:
    path = folder / "base" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit_template(folder: Path) -> None:
    (folder / "chat.jinja").write_text("{% for m in messages %}{{ m.content }}!\n{% endfor %}")


@pytest.mark.slow
def test_what_has_changed_is_named_and_force_records_it(phf: Phf, tmp_path: Path) -> None:
    options = [*begin(phf, tmp_path), "--steps", 2, "--resume", "--quiet"]
    (tmp_path / "base" / "config.json").touch()  # another time alone is no change
    edits = {"data: the problems": edit_data, "model: the weights": edit_weights, "prompt.chat_template": edit_template}
    edits["evaluation.bench: the problems"] = edit_bench
    for words, edit in edits.items():
        kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "run" not in path.parts}
        edit(tmp_path)
        done = phf("train", *options)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert f"resume: {words}" in done.err
        for path, content in kept.items():
            path.write_bytes(content)
    edit_data(tmp_path)
    assert phf("train", *options, "--force").code == 0
    (resumed,) = json.loads((tmp_path / "run" / "manifest.json").read_text())["resumed"]
    assert "data: the problems of" in resumed["forced"][0]


@pytest.mark.slow
def test_an_evaluation_goes_on_with_the_contents_that_it_began_with(phf: Phf, tmp_path: Path) -> None:
    shutil.copytree(embedded_model(), tmp_path / "base")
    (tmp_path / "bench.jsonl").write_text(
        '{"problem": "1 + 1?", "answer": "2"}\n{"problem": "2 + 2?", "answer": "4"}\n'
    )
    (tmp_path / "chat.jinja").write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    own = ["--bench", "bench.jsonl", "--set", "prompt.chat_template=chat.jinja", "--output-dir", "out"]
    evaluation = ["eval", "base", *own, "--n", 1, "--max-new-tokens", 8, "--engine", "transformers", "--quiet"]
    assert phf(*evaluation).code == 0
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "base", tmp_path / "elsewhere" / "base")
    evaluation[1] = "elsewhere/base"  # the same model under another path
    assert phf(*evaluation).code == 0
    bench = tmp_path / "bench.jsonl"
    edits: dict[str, Callable[[], object]] = {
        "bench_sha256": lambda: bench.write_text(bench.read_text().replace("2 + 2", "3 + 1")),
        "model": lambda: edit_weights(tmp_path / "elsewhere"),
    }
    for words, edit in edits.items():
        kept = {path: path.read_bytes() for path in (bench, tmp_path / "elsewhere" / "base" / "model.safetensors")}
        edit()
        done = phf(*evaluation)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert f"was sampled with {words}" in done.err
        for path, content in kept.items():
            path.write_bytes(content)
    edit_template(tmp_path)  # other prompts have a folder of their own
    assert phf(*evaluation).code == 0
    assert len(list((tmp_path / "out" / "evals").iterdir())) == 2


@pytest.mark.slow
def test_the_day_of_a_template_is_that_of_the_start_in_run_and_evaluation(phf: Phf, tmp_path: Path) -> None:
    clock = "{{ strftime_now('%d %B %Y') }} {% for m in messages %}{{ m.content }}\n{% endfor %}"
    (tmp_path / "clock.jinja").write_text(clock)
    small = ["--set", "prompt.chat_template=clock.jinja", "--output-dir", "run", *SMALL]
    assert phf("train", *small, "--steps", 1).code == 0
    config = tmp_path / "run" / "config.yaml"
    today = str(datetime.datetime.now().astimezone().date())
    assert yaml.safe_load(config.read_text())["prompt"]["day"] == today
    note_settings(tmp_path / "run", TrainConfig.model_validate(_on_day(config, "2020-02-03")))  # as if it were older
    assert phf("train", *small, "--steps", 2, "--resume").code == 0
    assert yaml.safe_load(config.read_text())["prompt"]["day"] == "2020-02-03"
    short = ["--limit", 1, "--n", 1, "--engine", "transformers", "--quiet"]
    assert phf("eval", "run", *short).code == 0
    assert _day(tmp_path, "run/evals/step-000002/embedded-n1") == "2020-02-03"
    model = ["eval", "embedded", *short, "--set", "prompt.chat_template=clock.jinja"]
    assert phf(*model, "--set", "prompt.day=2021-01-01").code == 0
    assert phf(*model).code == 0
    assert [path.name for path in (tmp_path / "runs/embedded/evals").iterdir()] == ["embedded-n1"]
    assert _day(tmp_path, "runs/embedded/evals/embedded-n1") == "2021-01-01"


def _on_day(config: Path, day: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load(config.read_text())
    tree["prompt"]["day"] = day
    return tree


def _day(folder: Path, evaluation: str) -> str:
    return str(json.loads((folder / evaluation / "settings.json").read_text())["prompt"]["day"])
