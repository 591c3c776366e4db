"""The memory of a pass as the plan counts it, also with activations that wait elsewhere."""

import pytest
import torch
from torch import Tensor, nn

from phfcli.core.config import LoraSettings, ModelSettings
from phfcli.core.models.description import load_config, skeleton
from phfcli.core.models.device import is_offloaded
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.lora import add_lora, lora_network
from phfcli.core.training.pass_memory import Allocations, pass_memory, reader_memory

LORA = LoraSettings(r=8, alpha=16)
ROWS, LENGTH = 3, 50


def test_tensors_count_while_they_live() -> None:
    with Allocations() as allocations:
        a = torch.empty(100, dtype=torch.float32, device="meta")
        b = a + 1
        view = b[:10]
        assert (allocations.held, allocations.peak) == (800, 800)
        b.mul_(2)
        del b
        assert allocations.held == 800  # its view holds it
        del view
        assert (allocations.held, allocations.peak) == (400, 800)


def test_what_autograd_keeps_is_what_it_keeps_of_real_tensors() -> None:
    model = add_lora(load_model(ModelSettings(device="cpu")), LORA, seed=0)
    counted = pass_memory(_on_shapes(), ROWS, LENGTH, 0, "auto")
    assert counted.kept == pytest.approx(_really_kept(model), rel=0.02)


def test_the_backward_pass_ends_with_the_gradients() -> None:
    causal = _on_shapes()
    adapter = sum(p.numel() * p.itemsize for p in causal.parameters() if p.requires_grad)
    counted = pass_memory(causal, ROWS, LENGTH, 0, "auto")
    assert counted.backward >= max(counted.kept, adapter)
    assert all(p.grad is None for p in causal.parameters())


def test_gradient_checkpointing_keeps_less() -> None:
    causal = _on_shapes()
    causal.gradient_checkpointing_enable({"use_reentrant": False})
    assert pass_memory(causal, ROWS, LENGTH, 0, "auto").kept < 0.2 * _kept_of_plain()


def test_eager_attention_keeps_its_weights() -> None:
    weights = ROWS * 4 * LENGTH * LENGTH * 4  # of each of the 4 layers, 4 heads, float32
    more = pass_memory(_on_shapes(), ROWS, LENGTH, 0, "eager").kept - _kept_of_plain()
    assert more >= 4 * weights


def test_a_pass_without_grad_holds_little_and_grows_with_its_tokens() -> None:
    causal = _on_shapes()
    short, long = (reader_memory(causal, ROWS, length, "auto") for length in (LENGTH, 2 * LENGTH))
    assert 0 < short < 0.5 * _kept_of_plain()
    assert long >= 1.9 * short


def test_products_are_counted_as_by_hand() -> None:
    causal = skeleton(load_config("embedded")).train()  # all weights train
    matrices = sum(p.numel() for name, p in causal.named_parameters() if "proj" in name)
    products = 3 * 2 * ROWS * LENGTH * matrices  # forward, to the inputs, to the weights
    attention = (1 + 2.5) * 4 * ROWS * 4 * 4 * 32 * LENGTH**2 / 2  # 4 layers of 4 heads of 32; causal
    assert pass_memory(causal, ROWS, LENGTH, 0, "auto").flops == pytest.approx(products + attention, rel=1e-3)


def _on_shapes() -> torch.nn.Module:
    causal = skeleton(load_config("embedded"))
    lora_network(causal, LORA)
    return causal.train()


def _kept_of_plain() -> int:
    return pass_memory(_on_shapes(), ROWS, LENGTH, 0, "auto").kept


def _really_kept(model: LanguageModel) -> int:
    weights = {p.untyped_storage().data_ptr() for p in model.network.parameters()}
    sizes: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return x

    model.network.train()
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        out = model.backbone(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
    return sum(sizes.values()) + out.nbytes


def test_large_dense_activations_go_and_weights_stay() -> None:
    state = torch.empty(4, 512, 1024, device="meta")
    assert is_offloaded(state)
    assert is_offloaded(state.transpose(1, 2))
    assert not is_offloaded(state[:1, :1])  # small
    assert not is_offloaded(state[..., ::2])  # with gaps, which a copy would not have
    assert not is_offloaded(state[:, :1].expand(4, 512, 1024))
    weight = nn.Parameter(torch.empty(1024, 1024, device="meta"), requires_grad=False)
    assert not is_offloaded(weight)
    assert not is_offloaded(weight.t())
    assert not is_offloaded(torch.empty(4, 512, 1024))  # on a CPU there is nowhere to go


@pytest.mark.parametrize(("checkpointing", "left"), [(False, 0.1), (True, 0.7)])  # which holds its inputs itself
def test_the_plan_knows_what_is_left(checkpointing: bool, left: float) -> None:
    causal = skeleton(load_config("embedded"), torch.float32)
    lora_network(causal, LoraSettings())
    causal.train()
    if checkpointing:
        causal.gradient_checkpointing_enable({"use_reentrant": False})
    here, away = (pass_memory(causal, 4, 2048, 0, "sdpa", offload=offload) for offload in (False, True))
    assert away.kept < left * here.kept
    assert away.backward < here.backward
