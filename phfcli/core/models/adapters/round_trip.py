"""Before a run: an adapter that is saved comes back, changes the model, and gets a gradient in every module.

What would only be seen at the end of a run, when its work is lost, is seen here. The check costs a few short passes and
one more adapter while it lasts; the base is not loaded again, and weights and random state stay as they were.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from phfcli.core.errors import UserError, first_line
from phfcli.core.models.adapters.targets import adapted
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.storage.files import new_folder

TOKENS = 16  # of the sequence that is passed through
_OWN, _READ = "default", "read-back"  # PEFT's names of the two adapters
_NOISE = 0.02  # standard deviation
_SAME = 1e-3  # of the adapter's own effect, that the one read back may differ by


def check_round_trip(model: LanguageModel, ids: Sequence[int]) -> None:
    """Saves an adapter, reads it as PEFT does, and compares; then looks at each module's gradient.

    Args:
        model: with a fresh adapter.
        ids: a text of the run's own, which both are looked at with.

    Raises:
        UserError: naming the module that would not be saved, not be read, or not be trained.
    """
    assert isinstance(model.network, PeftModel)
    count = min(TOKENS, model.description.context)
    tokens = torch.tensor([list(islice(cycle(ids), count))], device=model.device)
    with _undisturbed(model):
        _check_gradients(model, tokens)
        with torch.no_grad(), tempfile.TemporaryDirectory(prefix="phf-") as folder:
            _check_files(model, model.network, tokens, Path(folder))


def _check_files(model: LanguageModel, network: PeftModel, tokens: Tensor, folder: Path) -> None:
    for p in _sides(network, "lora_B", _OWN).values():
        p.normal_(std=_NOISE)
    with network.disable_adapter():
        base = _logits(model, tokens)
    own = _logits(model, tokens)
    with new_folder(folder / "adapter") as target:  # which names the file where the disk is at fault
        network.save_pretrained(str(target), save_embedding_layers=False)
    _read_back(network, folder / "adapter")
    read = _logits(model, tokens)
    effect, apart = _distance(own, base), _distance(own, read)
    if not effect > 0:
        raise UserError(
            "lora: an adapter with weights in it does not change what the model computes; name other targets"
        )
    if not apart <= _SAME * effect:
        raise UserError(f"lora: a saved adapter computes something else when it is read, by {apart:.2g} in the logits")


def _read_back(network: PeftModel, folder: Path) -> None:
    """Loads the saved adapter beside the present one and leaves it active."""
    try:
        network.load_adapter(str(folder), adapter_name=_READ)
    except Exception as error:  # PEFT, safetensors and torch each have their own way to refuse a file
        raise UserError(f"lora: PEFT does not read the adapter that it has saved: {first_line(error)}") from None
    for side in ("lora_A", "lora_B"):
        saved, read = _sides(network, side, _OWN), _sides(network, side, _READ)
        for name, p in saved.items():
            if name not in read or not torch.equal(p, read[name]):
                raise UserError(f"lora: {name} is lost when the adapter is saved; leave it out of lora.target_modules")
    network.set_adapter(_READ)


def _check_gradients(model: LanguageModel, tokens: Tensor) -> None:
    """With lora_B at zero the gradient of a module is zero only if nothing flows through it."""
    loss = nn.functional.cross_entropy(_logits(model, tokens)[0, :-1], tokens[0, 1:])
    sides = _sides(model.network, "lora_B", _OWN)
    # not .backward(): other parameters' gradients are none of this check's business
    gradients = torch.autograd.grad(loss, list(sides.values()), allow_unused=True)
    for name, gradient in zip(sides, gradients, strict=True):
        if (gradient is None or not gradient.any()) and ".experts." not in name:  # an expert may have no token
            raise UserError(
                f"lora: {name} gets no gradient, so the adapter would not train there: the model's code goes past the "
                "module; name others in lora.target_modules"
            )


@contextmanager
def _undisturbed(model: LanguageModel) -> Iterator[None]:
    """Brings back the adapter, its being the active one, the random state and the mode."""
    network, mode = model.network, model.network.training
    assert isinstance(network, PeftModel)
    kept = {name: p.detach().clone() for name, p in _sides(network, "lora_B", _OWN).items()}
    devices = [model.device] if model.device.type == "cuda" else []
    network.eval()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        if _READ in network.peft_config:
            network.set_adapter(_OWN)
            network.delete_adapter(_READ)
        for name, p in _sides(network, "lora_B", _OWN).items():
            p.data.copy_(kept[name])
        network.train(mode)


def _sides(network: nn.Module, side: str, adapter: str) -> Mapping[str, nn.Parameter]:
    """One of the two matrices of every adapted module, by the module's name."""
    found = {}
    for name, module in adapted(network).items():
        matrices = getattr(module, side, {})
        if adapter in matrices:
            found[name.removeprefix("base_model.model.")] = matrices[adapter].weight
    return found


def _logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    with model.computing():
        logits: Tensor = model.causal(input_ids=tokens, use_cache=False).logits
    return logits.float()


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
