"""A frozen base spread over ranks (FSDP2), for models that are large beside the GPUs they train on.

Each rank keeps its part of every decoder block's weights; a block is whole only while a pass is in it. Embeddings,
head and adapter stay whole on every rank, so the optimizer, the teacher, checkpoints and the sum of gradients know
nothing of it. A pass of one rank needs all the others, which make as many; in sampling each goes its own way, so for
that time the blocks are whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from phfcli.core.models.language_model import LanguageModel


def shard(model: LanguageModel, ranks: int) -> None:
    """Leaves a part of the frozen weights on each of so many ranks."""
    mesh = init_device_mesh(model.device.type, (ranks,))
    adapter = set(model.trainable().values())
    for block in model.blocks:
        fully_shard(block, mesh=mesh, ignored_params=adapter, reshard_after_forward=True)


@contextmanager
def whole_blocks(model: LanguageModel) -> Iterator[None]:
    """Within it each rank computes for itself. All ranks enter; with nothing sharded it does nothing."""
    blocks = [block for block in model.blocks if isinstance(block, FSDPModule)]
    for block in blocks:
        block.set_reshard_after_forward(False)
        block.unshard()
    try:
        yield
    finally:
        for block in blocks:
            block.set_reshard_after_forward(True)
            block.reshard()
