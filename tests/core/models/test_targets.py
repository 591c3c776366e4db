"""Which modules an adapter sits on, for models of other families than Qwen3, and the lists that are refused."""

import pytest
import torch
from families import Family, build, family
from transformers import PreTrainedModel

from phfcli.core.config import LoraSettings
from phfcli.core.errors import UserError
from phfcli.core.models.adapters import adapted, choose_targets, leaf
from phfcli.core.models.lora import lora_network

PUBLISHED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def names(causal: PreTrainedModel, wanted: tuple[str, ...] | str = "all-linear") -> set[str]:
    return set(map(leaf, choose_targets(causal, wanted).modules))


def test_for_qwen3_the_default_is_the_published_list() -> None:
    causal = build(family("qwen3"))
    assert choose_targets(causal, "all-linear") == choose_targets(causal, PUBLISHED)
    assert choose_targets(causal, "all-linear").names == PUBLISHED


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("phi3", {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
        ("starcoder2", {"q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"}),
        ("glm4", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"}),
        ("gpt2", {"c_attn", "c_proj", "c_fc"}),
        ("falcon", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),  # of a class of its own
        ("lfm2", {"in_proj", "out_proj", "q_proj", "k_proj", "v_proj", "w1", "w2", "w3"}),
    ],
)
def test_every_linear_layer_of_the_blocks_is_adapted(kind: str, wanted: set[str]) -> None:
    causal = build(family(kind))
    network, summary = lora_network(causal, LoraSettings(r=2))
    assert set(map(leaf, adapted(network))) == wanted
    assert summary.count == len(adapted(network)) == sum(summary.modules.values())
    assert summary.parameters == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert summary.covered > 0.97
    assert not summary.left_out


def test_an_adapter_of_a_nested_text_model_leaves_the_vision_tower_alone() -> None:
    causal = build(family("gemma3"))
    assert any("vision_tower" in name and name.endswith("q_proj") for name, _ in causal.named_modules())
    network, _ = lora_network(causal, LoraSettings(r=2))
    assert adapted(network)
    assert not any("vision_tower" in name for name in adapted(network))


def test_fused_experts_are_left_out_with_a_sentence() -> None:
    network, summary = lora_network(build(family("deepseek_v3")), LoraSettings(r=2))
    assert {"q_a_proj", "kv_b_proj", "o_proj"} <= summary.modules.keys()
    assert not any(".experts" in name for name, p in network.named_parameters() if p.requires_grad)
    assert any(line.startswith("not adapted: mlp.experts: several matrices in one tensor") for line in summary.lines())
    assert any("gate_proj: PEFT reads this name as the fused experts'" in line for line in summary.lines())
    assert summary.covered < 0.5


def test_a_layer_that_the_code_goes_past_is_left_out_with_a_sentence() -> None:
    """Jamba multiplies with the weight of dt_proj itself."""
    targets = choose_targets(build(family("jamba")), "all-linear")
    assert "dt_proj: the model's code reads its weight instead of calling it" in targets.left_out
    assert not any(name.endswith("dt_proj") for name in targets.modules)
    with pytest.raises(UserError, match=r"lora\.target_modules: dt_proj cannot be adapted"):
        choose_targets(build(family("jamba")), ("dt_proj",))


@pytest.mark.parametrize(
    ("kind", "wanted", "message"),
    [
        ("phi3", PUBLISHED, r"no 'q_proj' \(.*\); its decoder blocks have down_proj, gate_up_proj, o_proj, qkv_proj"),
        ("qwen3", ("lm_head",), "lm_head lies outside of the decoder blocks"),
        ("qwen3", ("q_proj", "lm_head"), "lm_head lies outside of the decoder blocks"),
        ("qwen3_moe", ("experts",), "experts holds several matrices"),
        ("qwen3_moe", PUBLISHED, "no 'gate_proj'"),
        (
            "lfm2",
            ("q_proj", "v_proj"),
            "q_proj, v_proj is not in block 1 of 4, which has in_proj, out_proj, w1, w2, w3",
        ),
        ("mamba2", ("out_proj",), "out_proj cannot be adapted"),
    ],
)
def test_a_list_that_misses_is_refused_and_told_what_there_is(kind: str, wanted: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=f"^lora.target_modules: .*{message}"):
        choose_targets(build(family(kind)), wanted)


def test_counts_and_share_are_those_of_the_model() -> None:
    causal = build(family("qwen3"))
    size = sum(p.numel() for p in causal.parameters())
    _, summary = lora_network(causal, LoraSettings(r=2))
    assert summary.modules == dict.fromkeys(PUBLISHED, 4)
    assert summary.share == summary.parameters / size
    assert summary.lines()[0] == "adapter on 28 modules: " + ", ".join(f"4 x {name}" for name in PUBLISHED)


def test_shapes_without_data_give_the_same_targets() -> None:
    """As `--dry-run` has them."""
    with torch.device("meta"):
        causal = build(family("jamba"))
    assert choose_targets(causal, "all-linear") == choose_targets(build(family("jamba")), "all-linear")


def test_a_router_that_is_a_linear_layer_in_name_alone_is_no_target() -> None:
    """Phi-MoE's gives a pair."""
    phimoe = Family("phimoe", "Phi-3.5-MoE", {"num_local_experts": 4, "num_experts_per_tok": 2})
    causal = build(phimoe)
    assert isinstance(causal.get_submodule("model.layers.0.mlp.router"), torch.nn.Linear)
    assert names(causal) == {"q_proj", "k_proj", "v_proj", "o_proj"}
