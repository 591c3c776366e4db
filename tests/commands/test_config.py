"""phf config: what settings are, where they come from, and how two differ."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from phfcli.core.shipped_files import recipes

Phf = Callable[..., Any]


def test_each_setting_says_where_it_comes_from(phf: Phf) -> None:
    shown = phf("config", "show", "qwen3-4b", "opsd", "--set", "optim.lr=1e-5", "--json").json
    assert shown["optim.lr"] == {"value": 1e-5, "from": "--set optim.lr"}
    assert shown["objective"] == {"value": "opsd", "from": "--config opsd"}
    assert shown["batch_size"] == {"value": 32, "from": "--config qwen3-4b"}
    assert shown["checkpoint_every"]["from"] == "default"


def test_two_recipes_differ_in_what_the_paper_says(phf: Phf) -> None:
    changed = phf("config", "diff", "qwen3-4b", "qwen3-8b", "--json").json
    assert changed == {"model": ["Qwen/Qwen3-4B", "Qwen/Qwen3-8B"], "divergence.clip": [0.05, 0.06]}
    assert phf("config", "diff", "opsd", "opsd").out == "the same settings\n"


def test_the_schema_in_the_repository_is_the_present_one(phf: Phf) -> None:
    """Made by `phf config schema > recipes/schema.json`."""
    folder = next(iter(recipes().values())).parent
    assert json.loads((folder / "schema.json").read_text()) == phf("config", "schema").json


@pytest.mark.parametrize("path", recipes().values(), ids=lambda path: path.stem)
def test_a_recipe_names_its_schema(path: Path) -> None:
    assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--max-steps", 3), "phf: --max-steps: here it is steps; settings are given as --set KEY=VALUE\n"),
        (("--num_generations", 3), "phf: --num_generations: here it is grpo.group_size for grpo and oisd, "),
        (("--lora-r", 3), "phf: --lora-r: here it is lora.r; "),
        (("--temperature", 1), "phf: --temperature: here it is rollout.temperature of a training; "),
        (
            ("--set", "learning_rate=1"),
            "--set learning_rate: unknown key; here it is optim.lr\n",
        ),
        (
            ("--set", "actor.optim.lr=1"),
            "actor: unknown key; here it is optim.lr\n",
        ),
        (("--set", "actor_rollout_ref.model.lora_rank=8"), "unknown key; here it is lora.r\n"),
        (("--set", "data.train_batch_size=8"), "data: unknown key; here it is batch_size\n"),
    ],
)
def test_names_of_other_trainers_are_answered_with_ours(phf: Phf, words: tuple[Any, ...], told: str) -> None:
    done = phf("train", *words)
    assert done.code == 2
    assert told in done.err
    assert len(done.err.splitlines()) == 1


def test_usual_spellings_are_accepted(phf: Phf) -> None:
    plan = phf("train", "--learning-rate", "1e-4", "--batch-size", 8, "--dry-run", "--json").json
    assert (plan["settings"]["optim"]["lr"], plan["settings"]["batch_size"]) == (1e-4, 8)


@pytest.mark.slow
def test_a_dry_run_shows_what_applies_and_whose_it_is(phf: Phf) -> None:
    done = phf("train", "--objective", "opsd", "--alpha", "0.2", "--dry-run")
    lines = [line.strip() for line in done.out.splitlines()]
    assert any(line.startswith("flow.alpha: 0.2") and line.endswith("# --alpha") for line in lines)
    assert any(line.startswith("optim.lr: 0.0003") and line.endswith("# recipe embedded") for line in lines)
    assert not any(line.startswith(("grpo.", "sft.", "http.", "vllm.")) for line in lines)
    assert any("divergence.kind: jsd;" in line for line in lines)  # a default
    assert "a GPU of 24 GiB: fits" in done.out
    assert "hours: with --tokens-per-s" in done.out


def test_a_dry_run_of_an_evaluation_loads_nothing(phf: Phf, tmp_path: Path) -> None:
    plan = phf("eval", "embedded", "--n", 3, "--limit", 5, "--dry-run", "--json").json
    assert [(bench["bench"], bench["samples"]) for bench in plan["benches"]] == [("embedded", 15)]
    assert "Start with" in plan["prompt"]
    assert plan["tokens"] == 15 * plan["benches"][0]["max_new_tokens"]
    assert plan["memory_bytes"]["weights"] == 626_304 * 4
    layers, keys_and_values, prompt = 4, 2 * 64, 24
    longest = plan["benches"][0]["max_new_tokens"] + prompt
    assert plan["memory_bytes"]["one sequence"] == longest * layers * keys_and_values * 4
    assert plan["hours"] is None
    in_bits = phf("eval", "embedded", "--limit", 5, "--set", "quantization=int8", "--dry-run", "--json").json
    assert in_bits["memory_bytes"]["weights"] < plan["memory_bytes"]["weights"] / 2
    told = phf("eval", "embedded", "--n", 3, "--limit", 5, "--dry-run", "--tokens-per-s", plan["tokens"] / 7200).out
    assert "hours 2.0" in told
    assert "a GPU of 24 GiB: fits" in told
    assert list(tmp_path.iterdir()) == []


def test_devices_without_a_gpu_are_refused(phf: Phf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    done = phf("eval", "embedded", "--devices", "0,1")
    assert done.code == 2
    assert done.err.startswith("phf: devices: torch finds no GPU on this machine")
