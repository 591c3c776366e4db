"""phf export: the exported folder says what the adapter said, and nothing is overwritten."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from phfcli.core.config import LoraSettings, ModelSettings
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import add_lora

Phf = Callable[..., Any]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    model = add_lora(load_model(ModelSettings(device="cpu")), LoraSettings(r=8, alpha=16), seed=0)
    with torch.no_grad():
        for p in model.trainable().values():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    folder = tmp_path / "adapter"
    model.network.save_pretrained(str(folder), save_embedding_layers=False)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "embedded"}))
    return folder


def test_the_plain_model_computes_what_the_adapter_does(phf: Phf, adapter: Path, tmp_path: Path) -> None:
    done = phf("export", adapter, "--merged", "plain", "--json")
    assert done.code == 0
    assert done.json == {"folder": "plain", "dtype": "float32"}
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    ids = torch.tensor([[5, 9, 40, 3, 77]])
    with torch.no_grad():
        expected = load_model(ModelSettings(device="cpu"), adapter).causal(input_ids=ids).logits
        torch.testing.assert_close(plain(input_ids=ids).logits, expected, rtol=0, atol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "plain").chat_template
    assert not list((tmp_path / "plain").glob("adapter*"))


def test_it_refuses_what_it_would_overwrite_and_what_has_no_adapter(phf: Phf, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    refused = phf("export", adapter, "--merged", "full")
    assert refused.code == 2
    assert "full: is not empty" in refused.err
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes"]
    plain = phf("export", "embedded", "--merged", "out")
    assert plain.code == 2
    assert "is a plain model already" in plain.err
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_changes_no_logit_is_not_merged(phf: Phf, adapter: Path, tmp_path: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    save_file({name: t * ("lora_A" in name) for name, t in load_file(file).items()}, file)
    refused = phf("export", adapter, "--merged", "plain")
    assert refused.code == 2
    assert "merged into float32 weights it changes no logit" in refused.err
    assert not (tmp_path / "plain").exists()


def test_the_folder_keeps_the_runs_thinking_mode_and_chat_template(phf: Phf, run: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0].content }}{% if enable_thinking %}<think>{% else %}<think></think>{% endif %}")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["prompt"] |= {"thinking": False, "chat_template": str(template)}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert phf("export", run, "--merged", "plain").code == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    turn = [{"role": "user", "content": "1"}]
    for options in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
        assert tokenizer.apply_chat_template(turn, tokenize=False, **options) == "1<think></think>"
