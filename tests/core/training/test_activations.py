"""Which tensors leave a GPU until the backward pass; here on tensors that have shapes and no data."""

import pytest
import torch
from torch import nn

from phfcli.core.config import LoraSettings
from phfcli.core.models.description import load_config, skeleton
from phfcli.core.models.device import is_offloaded
from phfcli.core.models.lora import lora_network
from phfcli.core.training.pass_memory import pass_memory


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
    here, away = (pass_memory(causal, 4, 2048, 0, "sdpa", away=away) for away in (False, True))
    assert away.kept < left * here.kept
    assert away.backward < here.backward
