"""Weights spread over ranks (FSDP2), for models that are large beside the GPUs they train on.

Each rank keeps a part of every decoder block's weights; a block is gathered only while a pass is in it. Where an
adapter trains, embeddings, head and adapter stay whole on every rank, so the optimizer, the teacher, checkpoints and
the sum of gradients are as without sharding. Where all weights train, a rank also has only its part of their gradients,
of AdamW's moments and of the teacher's average. Embeddings and head are then gathered from the beginning of a pass to
the end of its backward pass, since the losses read the head.

A pass of one rank needs all the others, which make as many; in sampling each goes its own way, so for that time the
weights are whole.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from phfcli.core.models.language_model import READ_WITHOUT_HEAD, LanguageModel
from phfcli.core.models.trial import can_pack
from phfcli.core.storage.tensors import whole


def shard(model: LanguageModel, ranks: int) -> None:
    """Shards the weights over so many ranks: those of the frozen blocks under an adapter, else all of them."""
    can_pack(model)  # its trial runs while each rank still has all weights
    mesh = init_device_mesh(model.device.type, (ranks,))
    adapter = set(model.trainable().values()) if model.has_adapter else set()
    for block in model.blocks:
        fully_shard(block, mesh=mesh, ignored_params=adapter, reshard_after_forward=True)
    if not adapter:
        setattr(model.causal, READ_WITHOUT_HEAD, model.backbone.__call__)
        fully_shard(model.causal, mesh=mesh, reshard_after_forward=False)
        register_fsdp_forward_method(model.causal, READ_WITHOUT_HEAD)
    for module in _sharded_modules(model):  # the trainer sums gradients over ranks, so FSDP must not average them
        module.set_force_sum_reduction_for_comms(True)
        module.set_gradient_divide_factor(1.0)


@contextmanager
def whole_weights(model: LanguageModel) -> Iterator[None]:
    """Within it each rank has all weights. All ranks enter together; without sharding it does nothing."""
    modules, root = _sharded_modules(model), id(model.causal)
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(id(module) != root, recurse=False)
            module.reshard()


def spread_like(like: Tensor, tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank has whole; the tensor itself where `like` is not sharded."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def total(numbers: Sequence[Tensor]) -> float:
    """The sum of some numbers in float64; of sharded numbers the sum over all ranks."""
    return whole(torch.stack([number.double() for number in numbers]).sum()).item() if numbers else 0.0


def _sharded_modules(model: LanguageModel) -> list[FSDPModule]:
    return [module for module in (*model.blocks, model.causal) if isinstance(module, FSDPModule)]
