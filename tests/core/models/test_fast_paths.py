"""What decides whether a fast path is right must notice where it is not."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from families import build, family
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from phfcli.core.config import LoraSettings, ModelSettings
from phfcli.core.models import cached_attention, kernels, packing, trial
from phfcli.core.models.description import load_description, skeleton
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import lora_network
from phfcli.core.models.trial import FastPaths, can_pack, fast_paths

LEAST = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "pad_token_id": 0}
MAMBA = {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}


@pytest.fixture(autouse=True)
def _untried() -> Iterator[None]:
    """Each test tries anew."""
    trial._of_configs.clear()
    kernels._products_agree.cache_clear()
    kernels._tried.clear()
    yield
    trial._of_configs.clear()
    kernels._products_agree.cache_clear()
    kernels._tried.clear()


def plain(**changes: Any) -> PreTrainedModel:
    return build(family("qwen3"), **changes)


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "phi3", "gemma3_text", "mixtral", "deepseek_v3", "gpt2"])
def test_right_families_pass(kind: str) -> None:
    assert fast_paths(build(family(kind))).packing


def test_where_the_trial_is_asked_for_does_not_matter() -> None:
    """Rollouts ask without gradients, and under autocast where weights are kept in a higher precision."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert fast_paths(plain()) == FastPaths(packing=True, lens=True)


def test_a_state_that_leaks_between_packed_sequences_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FalconH1PreTrainedModel, "_supports_attention_backend", True)
    config = AutoConfig.for_model("falcon_h1", **LEAST, **MAMBA, num_attention_heads=4, num_key_value_heads=2)
    causal = AutoModelForCausalLM.from_config(config)
    assert not can_pack(LanguageModel(causal, causal, load_description("embedded")))
    assert causal.config._attn_implementation == "sdpa"


def test_a_window_that_only_the_mask_knows_is_noticed() -> None:
    sizes = {**LEAST, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2}
    windowed, whole = (AutoConfig.for_model("phimoe", **sizes, sliding_window=window) for window in (4096, None))
    assert not fast_paths(AutoModelForCausalLM.from_config(windowed)).packing
    assert fast_paths(AutoModelForCausalLM.from_config(whole)).packing


def without_window(*args: Any) -> Tensor:
    return WITHIN(10**6, *args[1:])


def not_scaled(*args: Any, **options: Any) -> Tensor:
    return scaled_dot_product_attention(*args, **{**options, "scale": 0.9 * options["scale"]})


WITHIN = packing._attend_within


@pytest.mark.parametrize(
    ("module", "name", "wrong"),
    [
        (packing, "_attend_within", without_window),
        (packing, "scaled_dot_product_attention", not_scaled),
        (cached_attention, "scaled_dot_product_attention", not_scaled),
        (cached_attention, "in_window", lambda queries, keys, _window: packing.in_window(queries, keys, None)),
    ],
)
def test_a_wrong_part_of_packing_is_noticed(
    module: Any, name: str, wrong: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, wrong)
    assert not fast_paths(build(family("mistral"))).packing


def test_a_leak_of_a_hundred_thousandth_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of the packed row gets a little of the one before it, whose sequence may be another."""
    forward = Qwen3Model.forward

    def leaking(self: Any, **arguments: Any) -> Any:
        out = forward(self, **arguments)
        if "attend" in arguments:
            out.last_hidden_state = out.last_hidden_state + 3e-5 * out.last_hidden_state.roll(1, dims=1)
        return out

    monkeypatch.setattr(Qwen3Model, "forward", leaking)
    assert not fast_paths(plain()).packing


def test_a_wrong_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = packing.scaled_dot_product_attention

    def detached(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        return right(query, key.detach(), value, **options)

    monkeypatch.setattr(packing, "scaled_dot_product_attention", detached)
    assert not fast_paths(plain()).packing


def test_a_model_that_drops_the_argument_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Qwen3Model.forward

    def deaf(self: Any, **arguments: Any) -> Any:
        return forward(self, **{name: value for name, value in arguments.items() if name != "attend"})

    monkeypatch.setattr(Qwen3Model, "forward", deaf)
    assert fast_paths(plain()) == FastPaths(packing=False, lens=True)


def test_attention_that_the_logit_lens_does_not_know_is_noticed() -> None:
    assert fast_paths(plain()).lens
    assert not fast_paths(build(family("gemma2"), layer_types=["full_attention"] * 4)).lens  # its logits are capped


def test_a_wrong_adapter_product_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    backward = kernels._LoraProducts.backward

    def wrong(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, *others = backward(ctx, grad)
        assert first is not None
        return (first * (1 + 1e-4), *others)

    monkeypatch.setattr(kernels._LoraProducts, "backward", staticmethod(wrong))
    network, _ = lora_network(plain(), LoraSettings(r=2))
    assert not any(isinstance(module, kernels.FusedLoraLinear) for module in network.modules())


def test_a_norm_with_a_wrong_gradient_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    backward = kernels._RmsNorm.backward

    def wrong(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return backward(ctx, grad)[0] * (1 + 1e-4), None, None

    norm = LlamaRMSNorm(32).bfloat16().requires_grad_(False)
    monkeypatch.setattr(kernels._RmsNorm, "backward", staticmethod(wrong))
    kernels.fuse_norms(nn.ModuleList([norm]))
    assert "forward" not in vars(norm)


def test_a_config_without_a_small_form_is_tried_on_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_small_model", lambda _causal: None)
    assert fast_paths(plain()) == FastPaths(packing=True, lens=True)
    assert fast_paths(plain(dtype="bfloat16").bfloat16()).packing
    assert not fast_paths(build(family("mistral"))).packing
    assert not fast_paths(build(family("lfm2"))).packing


def test_the_small_model_of_a_large_config_is_small_and_holds_each_kind_of_block() -> None:
    sizes = {"hidden_size": 5376, "num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 16}
    small = trial._small_model(skeleton(AutoConfig.for_model("gemma3_text", **sizes, head_dim=128)))
    assert small is not None
    assert small.config.layer_types == [*["sliding_attention"] * 5, "full_attention"]
    assert sum(p.numel() for p in small.parameters()) < 10_000_000


def test_a_config_is_tried_once_in_little_time_and_leaves_the_random_state(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(ModelSettings(model="embedded", device="cpu"))
    before, started = torch.get_rng_state(), time.process_time()
    assert can_pack(model)
    assert time.process_time() - started < 2
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(trial, "_small_model", lambda _causal: pytest.fail("tried again"))
    assert can_pack(load_model(ModelSettings(model="embedded", device="cpu")))
