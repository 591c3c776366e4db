"""The decoder blocks of a model, whatever its code calls them."""

from torch import Tensor, nn
from transformers import PreTrainedModel

from phfcli.core.errors import UserError
from phfcli.core.models.architecture.sizes import depth_of


def find_decoder(causal: PreTrainedModel) -> nn.Module:
    """Embeddings, blocks and final norm, without the head."""
    decoder: nn.Module = causal.get_decoder()
    if decoder is not causal:
        return decoder
    name, _ = find_blocks(causal)  # transformers has not found it: what holds the blocks
    return causal.get_submodule(name.rpartition(".")[0])


def find_blocks(causal: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list of decoder blocks and its name in the model: the outermost one of the depth that the config states.

    Raises:
        UserError: for a model that has none.
    """
    decoder, depth = causal.get_decoder(), depth_of(causal.config)
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth and len(set(map(id, module))) == depth:
            return next(name for name, other in causal.named_modules() if other is module), module
    kind = causal.config.model_type
    raise UserError(f"model: {kind} has no list of {depth} decoder blocks of its own to capture states from")


def final_norm(decoder: nn.Module, blocks: nn.ModuleList, width: int) -> nn.Module | None:
    """What stands between the last block and the head: the last norm of states that lies beside the blocks."""
    inside = set(map(id, blocks.modules()))
    norms = [m for m in decoder.modules() if id(m) not in inside and "norm" in type(m).__name__.lower()]
    shapes = [(norm, getattr(norm, "weight", None)) for norm in norms]
    found = [norm for norm, weight in shapes if not isinstance(weight, Tensor) or len(weight) == width]
    return found[-1] if found else None
