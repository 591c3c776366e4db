"""Bad input: one line that names the field or file and the fix, exit code 2, nothing written, nothing lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import refused

from phfcli.core.shipped_files import embedded_model

Phf = Callable[..., Any]

TRAIN = ("train", "--steps", 1, "--quiet")


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def write_rows(path: Path, *rows: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_unknown_model_path(phf: Phf) -> None:
    refused(phf(*TRAIN, "--model", "./nowhere"), "./nowhere", "no such model folder")
    refused(phf("eval", "./nowhere"), "./nowhere", "no such model folder")


def test_a_folder_that_is_no_model(phf: Phf, tmp_path: Path) -> None:
    refused(phf("eval", tmp_path), str(tmp_path), "no config.json", "no config.yaml, so it is not a run")


def test_missing_column(phf: Phf, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", {"question": "x", "solution": "y"})
    refused(phf(*TRAIN, "--data", path), "rows.jsonl", "no column 'problem'", "columns.")
    refused(phf("eval", "embedded", "--bench", path), "rows.jsonl", "no column 'problem'")


def test_empty_file(phf: Phf, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl")
    refused(phf(*TRAIN, "--data", path), "rows.jsonl", "holds no rows")


@pytest.mark.parametrize("name", ["phff", "ppo"])
def test_unknown_objective(phf: Phf, name: str) -> None:
    refused(phf(*TRAIN, "--objective", name), "--objective", name, "phf")


def test_a_reference_that_is_longer_than_allowed(phf: Phf) -> None:
    options = ("--objective", "sft", "--set", "sft.max_tokens=40", "--quiet")
    refused(phf("train", *options), "with its reference, more than the 40 that fit", "set overlong to skip")


def test_a_folder_that_is_not_empty(phf: Phf, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    refused(phf(*TRAIN, "--output-dir", folder), "mine is not empty", "output_dir")
    assert files(folder) == {folder / "thesis.tex"}


@pytest.mark.parametrize(("option", "value"), [("--n", 0), ("--n", -1), ("--limit", 0), ("--max-new-tokens", 0)])
def test_counts_below_one(phf: Phf, option: str, value: int) -> None:
    refused(phf("eval", "embedded", option, value), option, "must be greater than 0")


def test_a_yaml_typo_names_the_nearest_key(phf: Phf, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("rollout:\n  temprature: 1.0\n")
    refused(phf(*TRAIN, "--config", path), "mine.yaml", "rollout.temprature", "did you mean 'temperature'")


@pytest.mark.slow
def test_a_truncated_adapter(phf: Phf, tmp_path: Path) -> None:
    phf(*TRAIN, "--output-dir", tmp_path / "run", "--set", "batch_size=2")
    adapter = tmp_path / "run" / "checkpoints" / "step-000001" / "adapter_model.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:5000])
    refused(phf("eval", tmp_path / "run"), "adapter_model.safetensors", "damaged or incomplete")
    adapter.unlink()
    refused(phf("eval", adapter.parent), "an adapter without its weights")
    assert not (tmp_path / "run" / "evals").exists()


def test_a_reference_that_does_not_fit(phf: Phf, tmp_path: Path) -> None:
    long = {"problem": "Start with 1.", "solution": "1 " * 400, "answer": "1"}
    path = write_rows(tmp_path / "rows.jsonl", {"problem": "P", "solution": "S"}, long)
    refused(phf(*TRAIN, "--data", path), "rows.jsonl", "problem 1", "the 512 that fit", "set overlong to skip")
    assert not (tmp_path / "runs").exists()


def test_a_bench_that_does_not_exist(phf: Phf) -> None:
    refused(phf("eval", "embedded", "--bench", "aime42"), "bench aime42", "did you mean 'aime2")
    refused(phf("eval", "embedded", "--bench", "my.jsonl"), "my.jsonl", "no such file")


def test_prompts_that_leave_no_room(phf: Phf) -> None:
    refused(phf("eval", "embedded", "--max-new-tokens", 4000), "max_new_tokens: the longest", "context of 512")
    refused(phf(*TRAIN, "--set", "rollout.max_new_tokens=600"), "rollout.max_new_tokens", "context of 512")


def test_a_layer_beyond_the_model(phf: Phf) -> None:
    refused(phf(*TRAIN, "--set", "flow.layers=[2, 9]"), "flow.layers", "9 is beyond the model's 4")
    options = ("--objective", "oprd", "--set", "oprd.layers=[5]")
    refused(phf(*TRAIN, *options), "oprd.layers", "5 is beyond the model's 4")


def test_a_model_without_its_weights(phf: Phf, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(embedded_model(), folder)
    (folder / "model.safetensors").unlink()
    refused(phf("eval", folder, "--engine", "transformers"), str(folder), "cannot be loaded from its folder")


def test_a_device_that_is_not_there(phf: Phf) -> None:
    refused(phf(*TRAIN, "--set", "device=cuda:7"), "device", "cuda:7")


def test_gold_answers_that_cannot_be_read(phf: Phf, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", {"problem": "x", "answer": "\\frac{"})
    refused(phf("eval", "embedded", "--bench", path, "--quiet"), "none of its gold answers can be read")


def test_a_run_to_diagnose_or_compare_that_is_not_there(phf: Phf, tmp_path: Path) -> None:
    refused(phf("diagnose", "nowhere"), "nowhere", "no such run")
    refused(phf("compare", "nowhere"), "nowhere", "no such run")
    refused(phf("diagnose", "nowhere", "--energy", "los"), "--energy", "did you mean 'loss'")
    refused(phf("compare", "nowhere", "--plot", "x.doc"), "--plot x.doc", ".png")
    (tmp_path / "flow.safetensors").write_bytes(b"not tensors")
    refused(phf("diagnose", tmp_path / "flow.safetensors"), "flow.safetensors", "damaged")
    (tmp_path / "summary.json").write_text("{}")
    refused(phf("compare", tmp_path / "summary.json"), "summary.json", "expected a summary")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model", "./nowhere"), "./nowhere: no such model folder"),
        (("--model", "embedded", "--quick"), "--model: --quick leaves this check out"),
        (("--processes", 2, "--quick"), "--processes: --quick leaves this check out"),
        (("--engine", "vllm", "--quick"), "--engine: --quick leaves this check out"),
    ],
)
def test_the_doctor_looks_at_the_model_first(phf: Phf, words: tuple[str, ...], told: str) -> None:
    done = phf("doctor", *words)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
