"""Models: an adapter starts at nothing, folds away for sampling, and unsupported architectures are refused."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig

from phfcli.core.config import LoraSettings, ModelSettings
from phfcli.core.errors import UserError
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model, pick_attention
from phfcli.core.models.lora import adapter_for_sampling, add_lora

IDS = torch.tensor([[5, 9, 40, 3, 77]])


def with_adapter(dtype: Literal["float32", "bfloat16"]) -> LanguageModel:
    model = add_lora(load_model(ModelSettings(device="cpu", dtype=dtype)), LoraSettings(r=8, alpha=16), seed=3)
    with torch.no_grad():
        for p in model.trainable().values():
            p.add_(0.05 * torch.randn_like(p))
    return model


@pytest.fixture
def adapted() -> LanguageModel:
    return with_adapter("float32")


def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains() -> None:
    base = load_model(ModelSettings(device="cpu"))
    before = base.causal(input_ids=IDS).logits
    model = add_lora(base, LoraSettings(), seed=0)
    torch.testing.assert_close(model.causal(input_ids=IDS).logits, before, rtol=0, atol=0)
    assert len(model.trainable()) == 2 * 7 * 4
    assert all("lora_" in name and p.dtype == torch.float32 for name, p in model.trainable().items())


def test_a_merged_adapter_computes_the_same_and_leaves_no_trace(adapted: LanguageModel) -> None:
    before = {name: p.clone() for name, p in adapted.network.named_parameters()}
    trainable = list(adapted.trainable())
    logits = adapted.causal(input_ids=IDS).logits
    with torch.no_grad(), adapter_for_sampling(adapted):
        assert "lora" not in str(adapted.causal(input_ids=IDS).logits.grad_fn)
        torch.testing.assert_close(adapted.causal(input_ids=IDS).logits, logits, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(p, before[name]) for name, p in adapted.network.named_parameters())
    assert list(adapted.trainable()) == trainable
    assert torch.equal(adapted.causal(input_ids=IDS).logits, logits)


def test_sampling_in_bfloat16_takes_the_adapter_in_bfloat16_and_leaves_no_trace() -> None:
    model = with_adapter("bfloat16")
    before = {name: p.clone() for name, p in model.network.named_parameters()}
    logits = model.causal(input_ids=IDS).logits
    with torch.no_grad(), adapter_for_sampling(model):
        assert all(p.dtype == torch.bfloat16 for p in model.trainable().values())
        assert torch.equal(model.causal(input_ids=IDS).logits, logits)
    assert all(p.dtype == torch.float32 for p in model.trainable().values())
    assert all(torch.equal(p, before[name]) for name, p in model.network.named_parameters())


@pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning")  # of biases of adapters
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("more", ["use_dora", "lora_bias"])
def test_an_adapter_that_is_more_than_products_is_not_folded(
    embedded: LanguageModel, tmp_path: Path, more: str, dtype: Literal["float32", "bfloat16"]
) -> None:
    source = load_model(ModelSettings(device="cpu"))
    richer = get_peft_model(source.causal, LoraConfig(r=4, target_modules=["q_proj"], **{more: True}))
    with torch.no_grad():
        for name, p in richer.named_parameters():
            if "lora_" in name:
                p.add_(0.1)
    richer.save_pretrained(str(tmp_path))
    model = load_model(ModelSettings(device="cpu", dtype=dtype), adapter=tmp_path)
    logits = model.causal(input_ids=IDS).logits
    assert not torch.allclose(logits.float(), embedded.causal(input_ids=IDS).logits)
    with torch.no_grad(), adapter_for_sampling(model):
        assert torch.equal(model.causal(input_ids=IDS).logits, logits)


def test_weights_come_back_after_a_failure(adapted: LanguageModel) -> None:
    before = {name: p.clone() for name, p in adapted.network.named_parameters()}

    def fail() -> None:
        with adapter_for_sampling(adapted):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert all(torch.equal(p, before[name]) for name, p in adapted.network.named_parameters())


def test_a_models_own_sampling_defaults_are_dropped(embedded: LanguageModel) -> None:
    own = embedded.causal.generation_config.to_diff_dict()
    assert own.keys() <= {"eos_token_id", "pad_token_id", "transformers_version"}


def test_unknown_target_modules_are_a_users_mistake(embedded: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"lora\.target_modules: .*nothing"):
        add_lora(embedded, LoraSettings(target_modules=("nothing",)), seed=0)


@pytest.mark.parametrize(
    ("name", "kind", "device", "dtype", "installed", "picked"),
    [
        ("auto", "gemma2", "cuda", torch.bfloat16, True, "flash_attention_2"),
        ("auto", "gemma2", "cuda", torch.bfloat16, False, "eager"),  # its attention is capped
        ("auto", "mistral", "cuda", torch.bfloat16, True, "flash_attention_2"),
        ("auto", "qwen3_next", "cuda", torch.bfloat16, True, "flash_attention_2"),
        ("auto", "mistral", "cuda", torch.float32, True, None),
        ("auto", "mistral", "cpu", torch.bfloat16, True, None),
        ("auto", "qwen3", "cuda", torch.bfloat16, True, None),  # it is packed, which wants sdpa
        ("auto", "llama", "cuda", torch.bfloat16, True, None),
        ("flash_attention_2", "qwen3", "cuda", torch.bfloat16, True, "flash_attention_2"),
        ("eager", "mistral", "cuda", torch.bfloat16, True, "eager"),
    ],
)
def test_flash_attention_is_taken_for_models_that_cannot_be_packed(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
    device: str,
    dtype: torch.dtype,
    installed: bool,
    picked: str | None,
) -> None:
    monkeypatch.setattr("phfcli.core.models.loading.is_flash_attn_2_available", lambda: installed)
    assert pick_attention(name, torch.device(device), dtype, AutoConfig.for_model(kind)) == picked
