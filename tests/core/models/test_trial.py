"""The trials before step 1: the model's states and logits, and the round trip of its adapter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, build, family, write
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from phfcli.core.config import LoraSettings, ModelSettings
from phfcli.core.errors import UserError
from phfcli.core.models.description import load_description
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import add_lora, check_round_trip
from phfcli.core.models.trial import check_computation


def model(causal: Any) -> LanguageModel:
    return LanguageModel(causal, causal, load_description("embedded"))


@pytest.mark.parametrize("kind", [one.kind for one in FAMILIES])
def test_blocks_and_head_are_found(kind: str) -> None:
    causal = build(family(kind))
    if kind == "gemma2":
        causal.set_attn_implementation("eager")
    found = model(causal)
    check_computation(found)
    assert len(found.blocks) == 4


@pytest.mark.parametrize(
    ("kind", "scale", "soft_cap", "bias"),
    [
        ("gemma2", 1.0, 3.0, False),
        ("granite", 0.25, None, False),
        ("cohere2", 0.25, None, False),
        ("phi", 1.0, None, True),
        ("gptj", 1.0, None, True),
        ("qwen3", 1.0, None, False),
    ],
)
def test_what_stands_behind_the_product_is_read(kind: str, scale: float, soft_cap: float | None, bias: bool) -> None:
    causal: Any = build(family(kind))
    if bias:
        nn.init.normal_(causal.get_output_embeddings().bias)
    head = model(causal).output_head
    assert (head.scale, head.soft_cap, head.bias is not None) == (scale, soft_cap, bias)
    causal.set_attn_implementation("eager")
    check_computation(model(causal))


def test_attention_that_leaves_something_out_is_refused() -> None:
    """sdpa does not cap attention's logits, and says nothing."""
    causal: Any = build(family("gemma2"))
    causal.set_attn_implementation("sdpa")
    with pytest.raises(UserError, match="attention by sdpa computes something else than the code of Gemma2ForCausalLM"):
        check_computation(model(causal))
    assert causal.config._attn_implementation == "sdpa"
    causal.set_attn_implementation("eager")
    check_computation(model(causal))


def test_roundings_that_grow_over_depth_are_no_fault() -> None:
    """A real model in bfloat16: between two kernels its logits differ by a sixth of the largest, its blocks by 1%."""
    causal: Any = build(family("qwen3"))
    with torch.no_grad():
        for layer in causal.model.layers:  # sharp attention: which token it picks hangs on a rounding
            layer.self_attn.q_norm.weight.fill_(8.0)
            layer.self_attn.k_norm.weight.fill_(8.0)
    found = model(causal.to(torch.bfloat16))
    logits = {}
    for kernel in ("eager", "sdpa"):
        causal.set_attn_implementation(kernel)
        logits[kernel] = causal(input_ids=torch.arange(16)[None]).logits.float()
    assert (logits["eager"] - logits["sdpa"]).abs().max() > 0.2 * logits["eager"].abs().max()
    check_computation(found)


def test_attention_is_picked_so_that_nothing_is_left_out(tmp_path: Path) -> None:
    folder = str(write(family("gemma2"), tmp_path))
    assert load_model(ModelSettings(model=folder, device="cpu")).attention == "eager"
    with pytest.raises(UserError, match="attention: sdpa leaves out the cap"):
        load_model(ModelSettings(model=folder, device="cpu", attention="sdpa"))


def test_a_head_that_no_list_knows_is_refused() -> None:
    causal: Any = build(family("qwen3"))
    causal.lm_head.register_forward_hook(lambda _module, _args, logits: 30 * torch.tanh(logits / 30))
    with pytest.raises(UserError, match=r"embedded: its code does more between hidden states and logits"):
        check_computation(model(causal))


def test_a_block_whose_output_is_not_its_state_is_refused() -> None:
    """The hook of transformers, which is registered first, still sees the block's own output."""
    causal: Any = build(family("qwen3"))
    causal(input_ids=torch.ones(1, 2, dtype=torch.long), output_hidden_states=True)  # leaves the hooks behind
    causal.model.layers[1].register_forward_hook(lambda _module, _args, state: 2 * state)
    with pytest.raises(UserError, match="the output of block 2 of Qwen3ForCausalLM is not its hidden state"):
        check_computation(model(causal))


def test_something_between_the_last_block_and_the_norm_is_refused() -> None:
    class Between(nn.Module):
        """Stands behind the final norm, unknown to the check by its name."""

        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.inner = norm

        def forward(self, states: Tensor) -> Tensor:
            out: Tensor = self.inner(states) * torch.linspace(0.5, 1.5, states.shape[-1])
            return out

    causal: Any = build(family("qwen3"))
    causal.model.norm = Between(causal.model.norm)
    with pytest.raises(UserError, match=r"the last block of Qwen3ForCausalLM, normed, is not what its head reads"):
        check_computation(model(causal))


def test_a_model_without_a_list_of_blocks_is_refused() -> None:
    causal: Any = build(family("qwen3"))
    causal.config.num_hidden_layers = 5
    with pytest.raises(UserError, match=r"model: qwen3 has no list of 5 decoder blocks"):
        check_computation(model(causal))


IDS = [5, 9, 40, 3, 77, 12]


def adapted(kind: str) -> LanguageModel:
    causal = build(family(kind))
    return add_lora(LanguageModel(causal, causal, load_description("embedded")), LoraSettings(r=4, alpha=8), seed=0)


@pytest.mark.parametrize("kind", ["qwen3", "phi3", "gpt2", "qwen3_moe", "lfm2", "gemma3"])
def test_a_good_adapter_passes_and_nothing_is_disturbed(kind: str) -> None:
    model = adapted(kind)
    before = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    trainable, state, mode = list(model.trainable()), torch.get_rng_state(), model.network.training
    check_round_trip(model, IDS)
    after = dict(model.network.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(p, after[name]) and after[name].grad is None for name, p in before.items())
    assert list(model.trainable()) == trainable
    assert torch.equal(torch.get_rng_state(), state)
    assert model.network.training == mode


class Deaf(Qwen3MLP):
    """Reads the weight of one of its layers instead of calling it."""

    def forward(self, x: Tensor) -> Tensor:
        layer = self.up_proj
        up = layer(x) * 0 + torch.nn.functional.linear(x, layer.weight)
        out: Tensor = self.down_proj(self.act_fn(self.gate_proj(x)) * up)
        return out


def test_a_module_without_a_gradient_is_found() -> None:
    causal: Any = build(family("qwen3"))
    causal.model.layers[2].mlp.__class__ = Deaf
    model = LanguageModel(causal, causal, load_description("embedded"))
    model = add_lora(model, LoraSettings(r=4), seed=0)
    with pytest.raises(UserError, match=r"lora: model\.layers\.2\.mlp\.up_proj gets no gradient"):
        check_round_trip(model, IDS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop(next(k for k in tensors if "layers.1.self_attn.v_proj.lora_B" in k)), "v_proj"),
        (lambda tensors: next(v for k, v in tensors.items() if "layers.3" in k).mul_(1.1), r"layers\.3"),
    ],
)
def test_what_a_file_loses_is_found(
    monkeypatch: pytest.MonkeyPatch, damage: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    model = adapted("qwen3")
    save = model.network.save_pretrained

    def damaged(folder: str, **options: Any) -> None:
        save(folder, **options)
        path = Path(folder) / "adapter_model.safetensors"
        tensors = load_file(path)
        damage(tensors)
        save_file(tensors, path)

    monkeypatch.setattr(model.network, "save_pretrained", damaged)
    with pytest.raises(UserError, match=rf"lora: .*{message}.* is lost when the adapter is saved"):
        check_round_trip(model, IDS)
    assert list(model.network.peft_config) == ["default"]
