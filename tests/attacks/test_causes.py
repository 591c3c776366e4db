"""The attack log by its causes: each is one line that names what is wrong, exit code 2 or 1, and nothing is lost.

The causes are those that once gave a traceback, a hang or a number without a word.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from phfcli.core.shipped_files import embedded_model

Phf = Callable[..., Any]
TRAIN = ("train", "--objective", "opsd", "--steps", "1", "--set", "batch_size=2", "--quiet")
EVAL = ("--engine", "transformers", "--n", "1", "--limit", "1", "--quiet")


def one_line(done: Any, code: int, *words: str) -> None:
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    assert done.err.count("\n") == 1, done.err
    assert all(word in done.err for word in words), done.err
    assert all(character.isprintable() for character in done.err.rstrip("\n"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copytree(embedded_model(), tmp_path / "model")
    return tmp_path / "model"


def _path() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def _newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*"))


OTHER_SHAPES = [
    "[1]",
    '"text"',
    "7",
    "null",
    "{}",
    '{"step": "x"}',
    "[" * 100_000,
    '{"step": ' + "9" * 5000 + "}",
    "\ud800x",
]


@pytest.mark.parametrize("content", OTHER_SHAPES, ids=range(len(OTHER_SHAPES)))
@pytest.mark.parametrize("name", ["trainer.json", "adapter_config.json"])
def test_json_of_another_shape_in_a_checkpoint(phf: Phf, run: Path, name: str, content: str) -> None:
    (_newest(run) / name).write_bytes(content.encode(errors="surrogatepass"))
    one_line(phf("eval", run, *EVAL, "--n", "2"), 2, name)


@pytest.mark.parametrize("content", OTHER_SHAPES, ids=range(len(OTHER_SHAPES)))
@pytest.mark.parametrize("name", ["summary.json", "settings.json", "samples.jsonl"])
def test_json_of_another_shape_in_an_evaluation(phf: Phf, run: Path, name: str, content: str) -> None:
    [file] = run.glob(f"evals/*/*/{name}")
    file.write_bytes(content.encode(errors="surrogatepass") + b"\n")
    done = phf("compare", run, shutil.copytree(run, run.with_name("other")))
    one_line(done, 2, name)


@pytest.mark.parametrize("content", OTHER_SHAPES, ids=range(len(OTHER_SHAPES)))
def test_json_of_another_shape_in_the_metrics(phf: Phf, run: Path, content: str) -> None:
    (run / "metrics.jsonl").write_bytes(content.encode(errors="surrogatepass") + b"\n")
    one_line(phf("report", run), 2, "metrics.jsonl line 1")


def test_a_damaged_flow(phf: Phf, run: Path) -> None:
    flow = max((run / "flows").glob("*.safetensors"))
    content = bytearray(flow.read_bytes())
    content[len(content) // 2] ^= 1
    flow.write_bytes(bytes(content))
    one_line(phf("diagnose", run), 2, flow.name)
    flow.write_bytes(bytes(content[:100]))
    one_line(phf("diagnose", run), 2, flow.name)


@pytest.mark.parametrize(
    "rows",
    [
        '{"problem": "p", "solution": "s", "answer": "1"}\n{"problem": "q", "solution": "s"}\n',
        '{"problem": "p", "solution": "s", "answer": null}\n',
        '{"problem": {"a": 1}, "solution": "s", "answer": "1"}\n',
        '{"problem": "p", "solution": "s", "answer": [[1]]}\n',
        '{"problem": "\\ud800", "solution": "s", "answer": "1"}\n',
        '{"problem": ' + "[" * 100_000 + "\n",
        '{"problem": "p", "solution": "s", "answer": ' + "9" * 5000 + "}\n",
        '{"pröblem": "p", "solution": "s", "answer": "1"}\n',
        "\x00\x01\x02",
        "[1, 2]\n",
    ],
    ids=range(10),
)
def test_rows_that_are_none(phf: Phf, tmp_path: Path, rows: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(rows)
    one_line(phf("eval", "embedded", "--bench", path, *EVAL), 2, "rows.jsonl")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nsteps: *b\n",
        "steps: " + "[" * 10_000,
        "steps: 1\n\tlr: 2\n",
        "- 1\n",
        "steps: 2026-99-99\n",
        "steps: " + "9" * 5000,
        "\x07: 1\n",
        "micro_batch_size: {a: {b: {c: 1}}}\n",
        "optim: {lr: .nan}\n",
        "optim: {lr: .inf}\n",
    ],
    ids=range(10),
)
def test_yaml_that_is_no_settings(phf: Phf, tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    one_line(phf(*TRAIN, "--config", "mine.yaml"), 2, "mine.yaml")
    assert not (tmp_path / "runs").exists()


def test_a_config_that_is_no_text(phf: Phf, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"steps: \xff\xfe")
    one_line(phf(*TRAIN, "--config", "mine.yaml"), 2, "mine.yaml")


def _truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def _without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _with_nan(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _contradicting(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 3, "hidden_size": 97}))


def _deeper(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 6, "layer_types": None}))


def _list_as_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def _raising_template(folder: Path) -> None:
    for file in folder.glob("chat_template*"):
        file.unlink()
    path = folder / "tokenizer_config.json"
    template = "{{ raise_exception('no \x1b[31m users') }}"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


FAULTY = [
    _truncated,
    _without_a_tensor,
    _with_nan,
    _contradicting,
    _deeper,
    _list_as_config,
    _raising_template,
    _pickled,
]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTY, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_a_base_model_that_is_not_whole(phf: Phf, model: Path, fault: Callable[[Path], None], engine: str) -> None:
    """What vLLM would take for a model is refused before it starts."""
    if engine == "vllm":
        pytest.importorskip("vllm", reason="wants vLLM")
    fault(model)
    one_line(phf("eval", model, *EVAL, "--engine", engine), 2, "model")
    one_line(phf(*TRAIN, "--model", model), 2, "model")


def _nan_adapter(checkpoint: Path) -> None:
    path = checkpoint / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    tensors[name][0, 0] = torch.nan
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("command", [("eval",), ("export", "--quiet", "--merged", "merged")], ids=["eval", "export"])
def test_an_adapter_with_a_nan(phf: Phf, run: Path, command: tuple[str, ...]) -> None:
    _nan_adapter(_newest(run))
    name, *options = command
    one_line(phf(name, _newest(run), *options, *(EVAL if name == "eval" else ())), 2, "adapter_model.safetensors")


def test_an_adapter_on_the_head_alone(phf: Phf) -> None:
    one_line(phf(*TRAIN, "--set", "lora.target_modules=[lm_head]"), 2, "lora.target_modules")


def test_metrics_that_are_not_finite(phf: Phf, tmp_path: Path) -> None:
    done = phf(*TRAIN, "--set", "optim.lr=1e30", "--steps", "4", "--output-dir", tmp_path / "run")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "after the update" in done.err


def _loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop"


def _file(folder: Path) -> Path:
    (folder / "file").write_text("mine")
    return folder / "file" / "run"


PLACES: list[Callable[[Path], Path]] = [_loop, _file, lambda folder: folder / ("x" * 300)]


@pytest.mark.parametrize("place", PLACES, ids=["a loop", "a file", "too long"])
def test_a_place_where_nothing_can_be_written(phf: Phf, tmp_path: Path, place: Callable[[Path], Path]) -> None:
    done = phf(*TRAIN, "--output-dir", place(tmp_path))
    one_line(done, done.code)
    assert done.code in (1, 2)
    assert not (tmp_path / "file").exists() or (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("command", ["eval", "diagnose", "compare", "report", "verify", "export"])
@pytest.mark.parametrize("place", PLACES, ids=["a loop", "a file", "too long"])
def test_a_place_where_nothing_can_be_read(
    phf: Phf, tmp_path: Path, place: Callable[[Path], Path], command: str
) -> None:
    done = phf(command, place(tmp_path))
    one_line(done, done.code)
    assert done.code in (1, 2)


def test_a_name_of_control_characters_never_reaches_the_terminal(phf: Phf, tmp_path: Path) -> None:
    one_line(phf("eval", tmp_path / "a\x1b[2Jb"), 2)
    one_line(phf("eval", os.fsdecode(b"\xff\xfe")), 2)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`phf` as a process of a shell, for what cannot be done to this one."""

    def start(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
        phf = f"{sys.executable} -m phfcli"
        return subprocess.run(
            ["bash", "-c", line.replace("phf ", f"{phf} ", 1)],
            env=os.environ | _path() | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            cwd=tmp_path,
        )

    with chdir(tmp_path):
        yield start


ONLINE = {"HF_HUB_OFFLINE": "0"}
SHELL = [
    ("mkdir gone; cd gone; rmdir ../gone; phf train --steps 1 --quiet", {}, ""),
    ("ulimit -n 8; phf eval embedded --n 1 --limit 1 --engine transformers --quiet", {}, "ulimit -n"),
    ("ulimit -v 700000; phf train --steps 1 --quiet", {}, "memory"),
    (
        "phf train --steps 1 --quiet --data some/set",
        ONLINE | {"ALL_PROXY": "socks5://127.0.0.1:9"},
        "some/set",
    ),
    ("phf eval some/model --quiet", ONLINE | {"HTTPS_PROXY": "http://127.0.0.1:9"}, "some/model"),
    ("phf eval some/model --quiet", ONLINE | {"SSL_CERT_FILE": "/nowhere.pem"}, ""),
    (
        "phf eval embedded --engine http://127.0.0.1:9 --n 1 --limit 1 --quiet --set http.patience_s=1",
        {},
        "127.0.0.1:9",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "environment", "word"), SHELL, ids=range(len(SHELL)))
def test_a_machine_that_refuses(
    shell: Callable[..., subprocess.CompletedProcess[str]], line: str, environment: dict[str, str], word: str
) -> None:
    done = shell(line, **environment)
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert [text for text in done.stderr.splitlines() if text.startswith("phf: ") and word in text], done.stderr


@pytest.mark.slow
def test_a_closed_stdout_ends_the_command_without_a_word(
    shell: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = shell("phf eval --bench list >&- ; echo code $?")
    assert "Traceback" not in done.stderr
    assert shell("phf eval --bench list | head -n 1").stderr == ""
