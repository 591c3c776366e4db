"""Weights spread over ranks (FSDP2), for models that are large beside the GPUs they train on.

Each rank keeps its part of every decoder block's weights; a block is whole only while a pass is in it. Where an adapter
trains, embeddings, head and adapter stay whole on every rank, so the optimizer, the teacher, checkpoints and the sum of
gradients know nothing of it. Where all weights train, a rank has its part of all that belongs to them: their gradient,
AdamW's moments, the teacher's average. Embeddings and head are then whole from the beginning of a pass to the end of
its backward pass, since the losses read the head.

A pass of one rank needs all the others, which make as many; in sampling each goes its own way, so for that time the
weights are whole.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from phfcli.core.models.language_model import READ, LanguageModel
from phfcli.core.models.packing import can_pack
from phfcli.core.storage.tensors import whole


def shard(model: LanguageModel, ranks: int) -> None:
    """Leaves a part of the weights on each of so many ranks: of the frozen blocks, or of all where all train."""
    can_pack(model)  # tried while each rank still computes for itself
    mesh = init_device_mesh(model.device.type, (ranks,))
    adapter = set(model.trainable().values()) if isinstance(model.network, PeftModel) else set()
    for block in model.blocks:
        fully_shard(block, mesh=mesh, ignored_params=adapter, reshard_after_forward=True)
    if not adapter:
        setattr(model.causal, READ, model.backbone.__call__)
        fully_shard(model.causal, mesh=mesh, reshard_after_forward=False)
        register_fsdp_forward_method(model.causal, READ)
    for module in _spread(model):  # gradients are summed as those of any ranks are
        module.set_force_sum_reduction_for_comms(True)
        module.set_gradient_divide_factor(1.0)


@contextmanager
def whole_weights(model: LanguageModel) -> Iterator[None]:
    """Within it each rank computes for itself. All ranks enter; with nothing sharded it does nothing."""
    modules, outside = _spread(model), id(model.causal)
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(id(module) != outside, recurse=False)
            module.reshard()


def spread_like(like: Tensor, tensor: Tensor) -> Tensor:
    """Of a whole tensor, which every rank has, this rank's part; the tensor itself where `like` is whole as well."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def total(numbers: Sequence[Tensor]) -> float:
    """The sum of some numbers, in float64; of numbers that ranks have parts of, the sum over all ranks."""
    return whole(torch.stack([number.double() for number in numbers]).sum()).item() if numbers else 0.0


def _spread(model: LanguageModel) -> list[FSDPModule]:
    return [module for module in (*model.blocks, model.causal) if isinstance(module, FSDPModule)]
