"""Which checkpoint, adapter or model a command means by its TARGET."""

import re
from dataclasses import dataclass
from pathlib import Path

from phfcli.core.errors import UserError
from phfcli.core.runs.checkpoints import checkpoints_of
from phfcli.core.runs.layout import is_run
from phfcli.core.shipped_files import EMBEDDED
from phfcli.core.storage.files import read_json
from phfcli.core.storage.tensors import check_tensors

_STEP = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Target:
    """The model that a TARGET stands for."""

    name: str  # short, for folders and tables
    model: str  # the base model, or a checkpoint of all weights
    origin: str  # what training began with
    adapter: Path | None = None
    run: Path | None = None
    step: int | None = None
    newest: bool = True  # of its run's checkpoints

    @property
    def plain(self) -> bool:
        """Whether it is a model as others made it."""
        return self.adapter is None and self.model == self.origin


def find_target(text: str, base: str | None = None) -> Target:
    """A run (its newest checkpoint), a checkpoint, an adapter folder or a plain model.

    base: the model under an adapter, where it is not the one that the adapter names.

    Raises:
        UserError: for a run without checkpoints, or an adapter without its weights: the base model alone is
            never evaluated in an adapter's name.
    """
    path = Path(text)
    if is_run(path):
        checkpoints = checkpoints_of(path)
        if not checkpoints:
            raise UserError(f"{text}: the run has no complete checkpoint yet")
        path = checkpoints[-1][1]
    if (path / "adapter_config.json").is_file() or _is_checkpoint(path):
        return _checkpoint_target(path, base)
    if (path / "adapter_model.safetensors").is_file():
        raise UserError(f"{text}: an adapter without its adapter_config.json")
    if base is not None:
        raise UserError(f"--base: {text} is not an adapter, so it has no base model")
    return Target(name=EMBEDDED if text == EMBEDDED else path.name, model=text, origin=text)


def _checkpoint_target(path: Path, base: str | None) -> Target:
    """A checkpoint of a run, or any other adapter."""
    whole = (path / "config.json").is_file()
    weights = path / ("model.safetensors" if whole else "adapter_model.safetensors")
    if not weights.is_file():
        what = "a model" if whole else "an adapter"
        raise UserError(f"{path}: {what} without its weights ({weights.name} is missing)")
    check_tensors(weights)
    if whole and base is not None:
        raise UserError(f"--base: {path} is not an adapter, so it has no base model")
    if not _STEP.fullmatch(path.name):  # such as "."
        path = path.resolve()
    adapter = None if whole else path
    match = _STEP.fullmatch(path.name)
    if match and path.parent.name == "checkpoints" and _is_checkpoint(path):
        run = path.parents[1]
        newest = checkpoints_of(run)[-1][1] == path
        origin = base or str(read_json(path / "trainer.json")["model"])
        model = str(path) if whole else origin
        return Target(run.name, model, origin, adapter=adapter, run=run, step=int(match[1]), newest=newest)
    if whole:  # copied out of its run
        return Target(path.name, str(path), str(read_json(path / "trainer.json")["model"]))
    model = base or read_json(path / "adapter_config.json").get("base_model_name_or_path")
    if not model:
        raise UserError(f"{path / 'adapter_config.json'}: base_model_name_or_path is missing; name it with --base")
    return Target(path.name, str(model), str(model), adapter=path)


def _is_checkpoint(path: Path) -> bool:
    return (path / "trainer.json").is_file()
