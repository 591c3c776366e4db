"""phf push: what leaves this machine, what its card says, and an upload to a server that speaks the hub's API."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_server import HubServer
from huggingface_hub import ModelCard

from phfcli.core.analysis.publish import _gather
from phfcli.core.config import TrainConfig
from phfcli.core.runs.folder import recorded_config
from phfcli.core.runs.model_card import model_card, public
from phfcli.core.runs.targets import find_target
from phfcli.core.settings import resolve_train, set_sources
from phfcli.core.shipped_files import embedded_model

Phf = Callable[..., Any]


@pytest.fixture
def run(evaluated_run: Path, tmp_path: Path) -> Path:
    """One step of PHF, not evaluated."""
    run = Path(shutil.copytree(evaluated_run, tmp_path / "run", ignore=shutil.ignore_patterns("evals")))
    shutil.rmtree(run / "checkpoints" / "step-000002")
    return run


def test_the_files_are_those_that_others_need(phf: Phf, run: Path) -> None:
    files = phf("push", run, "me/model", "--dry-run", "--json").json["files"]
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "phf-config.yaml"} <= files.keys()
    assert not {"optimizer.safetensors", "teacher.safetensors", "trainer.json"} & files.keys()
    assert "would go to me/model" in phf("push", run, "me/model", "--dry-run").out


def test_what_goes_to_the_hub_names_no_path_of_this_machine(run: Path, tmp_path: Path) -> None:
    target = find_target(str(run))
    assert target.run is not None
    assert target.step is not None
    folder = tmp_path / "sent"
    folder.mkdir()
    _gather(target, target.run, target.step, "me/model", folder)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "embedded"
    texts = [path.read_text() for path in folder.iterdir() if path.suffix in (".json", ".yaml", ".md")]
    assert len(texts) >= 4
    assert not [text for text in texts if str(tmp_path) in text or str(embedded_model()) in text]


def test_each_checkpoint_has_a_card(run: Path) -> None:
    card = (run / "checkpoints" / "step-000001" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "peft"
    assert "# embedded, phf, step 1" in card


def test_mistakes_are_one_line(phf: Phf, run: Path) -> None:
    for words in ((run, "model"), ("embedded", "me/model"), ("nowhere", "me/model")):
        done = phf("push", *words, "--dry-run")
        assert done.code == 2
        assert done.err.count("\n") == 1
    shutil.rmtree(run / "checkpoints")
    assert "no complete checkpoint" in phf("push", run, "me/model", "--dry-run").err


def test_a_card_has_scores_with_intervals_and_names_of_the_hub() -> None:
    config = TrainConfig(model="Qwen/Qwen3-4B", data="openai/gsm8k:main:train")
    card = model_card(config, 100, [{"bench": "aime24", "n": 12, "problems": 30, "average": 0.7, "stderr": 0.05}])
    header = yaml.safe_load(card.split("---")[1])
    assert (header["base_model"], header["datasets"]) == ("Qwen/Qwen3-4B", ["openai/gsm8k"])
    assert "| aime24 | 12 | 30 | 70.0 (60.2 to 79.8) |" in card


def test_the_hub_reads_the_scores_and_a_reader_the_lines_that_load_it() -> None:
    summary = {"bench": "aime24", "n": 12, "problems": 30, "average": 0.5, "stderr": 0.1}
    text = model_card(TrainConfig(model="Qwen/Qwen3-4B"), 100, [summary], "me/mine")
    data = ModelCard(text).data
    assert (data.model_name, data.base_model) == ("mine", "Qwen/Qwen3-4B")
    (result,) = data.eval_results or ()
    assert (result.dataset_name, result.metric_value) == ("aime24", 50.0)
    assert result.metric_name == "Average@12, %: 50.0 (30.4 to 69.6)"
    assert 'AutoPeftModelForCausalLM.from_pretrained("me/mine")' in text
    assert "vllm serve Qwen/Qwen3-4B --enable-lora --lora-modules phf=me/mine" in text


def test_a_card_names_the_licence_that_its_base_names(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(embedded_model(), base)
    config = TrainConfig(model=str(base))
    assert "license" not in yaml.safe_load(model_card(config, 1).split("---")[1])
    for header, licence in (
        ("license: apache-2.0\n", "apache-2.0"),
        ("license: [a\n", None),  # no YAML
        ("license: " + 5000 * "[" + "\n", None),
        ("license: !!python/object/apply:os.getcwd []\n", None),  # nothing is run
        ("license: 'x\\n## y'\n", None),
    ):
        (base / "README.md").write_text(f"---\n{header}---\n# Base\n")
        assert yaml.safe_load(model_card(config, 1).split("---")[1]).get("license") == licence


@pytest.mark.parametrize("base", ["/gone/base", "models/base", "/base", "../x/y", "./y", "Qwen/Qwen3-4B"])
def test_a_run_has_a_card_when_its_base_is_no_longer_there(base: str) -> None:
    shown = Path(base).name if base.startswith("/") else base
    assert f"A LoRA adapter of `{shown}`" in model_card(TrainConfig(model=base), 1)


@pytest.mark.slow
def test_a_damaged_other_evaluation_leaves_the_card_and_the_new_scores(phf: Phf, run: Path) -> None:
    sample = ("--limit", "2", "--engine", "transformers", "--n")
    assert phf("eval", run, *sample, "1").code == 0
    (run / "evals" / "step-000001" / "embedded-n1" / "summary.json").write_text("[1]")
    done = phf("eval", run, *sample, "2")
    assert done.code == 0
    assert "the model card keeps its old scores: " in done.err
    assert "| embedded | 1 | 2 | " in (run / "checkpoints" / "step-000001" / "README.md").read_text()


def test_a_card_lists_what_is_no_default_with_its_recipe() -> None:
    card = model_card(resolve_train(set_sources(["steps=7"])), 1)
    settings = card.split("```yaml\n")[1].split("\n```")[0].splitlines()
    assert {"steps: 7", "micro_batch_size: 32  # recipe embedded"} <= set(settings)
    assert not any(line.startswith(("batch_size:", "grpo.")) for line in settings)  # as they are by default


def test_an_evaluation_writes_its_scores_into_the_card(phf: Phf, run: Path) -> None:
    card = run / "checkpoints" / "step-000001" / "README.md"
    assert "Not evaluated when this card was written" in card.read_text()
    assert phf("eval", run, "--limit", "2", "--n", "1", "--engine", "transformers").code == 0
    assert "| embedded | 1 | 2 | " in card.read_text()
    assert phf("verify", run).code == 0
    assert phf("eval", run, "--limit", "2", "--n", "1", "--engine", "transformers").code == 0  # the same model still


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.stop()


def pushed(hub: HubServer, run: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """`phf push` in a process of its own: the hub's address is read when its library is imported."""
    own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "phfcli", "push", str(run), "me/model", *options]
    return subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_an_upload_brings_every_file_as_it_is(hub: HubServer, run: Path) -> None:
    done = pushed(hub, run, "--private", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["sent"] is True
    checkpoint = run / "checkpoints" / "step-000001"
    for name in ("adapter_model.safetensors", "tokenizer.json"):
        assert hub.files[name] == (checkpoint / name).read_bytes()
    settings = public(recorded_config(run).model_dump(mode="json"))
    assert yaml.safe_load(hub.files["phf-config.yaml"]) == settings
    adapter = json.loads((checkpoint / "adapter_config.json").read_text())
    assert json.loads(hub.files["adapter_config.json"]) == adapter | {"base_model_name_or_path": "embedded"}
    assert b"# embedded, phf, step 1" in hub.files["README.md"]
    assert not {"optimizer.safetensors", "teacher.safetensors", "trainer.json"} & hub.files.keys()
    assert hub.repos[0]["visibility"] == "private"
    assert hub.message == "phf: run, step 1"
    assert "Bearer hf_secret" in hub.tokens
    assert "hf_secret" not in done.stdout + done.stderr
    assert b"hf_secret" not in b"".join(hub.files.values())


@pytest.mark.parametrize(
    ("status", "says", "code", "message"),
    [
        (403, '{"error": "not allowed for {token}"}', 2, "me/model: the hub refuses: "),
        (500, '{"error": "failed with {token}"}', 1, "me/model: the hub answers with status 500: "),
        (429, "slow down", 1, "me/model: the hub answers with status 429: "),
        (200, "<html>{token}</html>", 1, "me/model: the upload has failed: "),
        (200, None, 1, "me/model: the upload has failed: "),
    ],
)
def test_a_hub_that_refuses_is_one_line(
    hub: HubServer,
    run: Path,
    phf: Phf,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    says: str,
    code: int,
    message: str,
) -> None:
    import huggingface_hub

    monkeypatch.setattr("phfcli.core.analysis.publish.hub_answers", lambda: True)
    api = huggingface_hub.HfApi(endpoint=hub.url, token="hf_secret")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hub.refusing, hub.answering = status, says
    done = phf("push", run, "me/model", "--quiet")
    assert (done.code, done.err.count("\n"), done.out) == (code, 1, "")
    assert done.err.startswith(f"phf: {message}")
    assert "hf_secret" not in done.err
    assert ("hf auth login" in done.err) == (status == 403)


def test_what_is_no_part_of_a_model_stays_here(phf: Phf, run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints" / "step-000001"
    (tmp_path / "id_ed25519").write_text("a key")
    for name in (".env", "notes.txt", "secrets.json"):
        (checkpoint / name).write_text("a secret")
    (checkpoint / "vocab.json").symlink_to(tmp_path / "id_ed25519")
    done = phf("push", run, "me/model", "--dry-run", "--json").json
    assert not {".env", "notes.txt", "secrets.json", "vocab.json"} & done["files"].keys()
    assert done["left"] == [".env", "notes.txt", "secrets.json", "vocab.json"]
    assert "left here  notes.txt" in phf("push", run, "me/model", "--dry-run").out


@pytest.mark.parametrize(
    "repo", ["me/x--y", "me/x..y", "-me/x", "me/x.git", "me/" + "x" * 200, "a/b/c", "me/x y", "model"]
)
def test_a_name_is_checked_by_the_hubs_own_rules(phf: Phf, run: Path, repo: str) -> None:
    for options in (["--dry-run"], []):
        done = phf("push", run, *options, "--", repo)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "REPO: " in done.err
