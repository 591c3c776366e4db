"""Which checkpoint, adapter or model a command means by its TARGET."""

from dataclasses import dataclass
from pathlib import Path

from phfcli.core.errors import UserError
from phfcli.core.runs.checkpoints import check_sums, checkpoints_of
from phfcli.core.runs.layout import is_run, step_of
from phfcli.core.shipped_files import EMBEDDED
from phfcli.core.storage.schemas import AdapterForm, TrainerForm, read_form
from phfcli.core.storage.tensors import check_tensors


@dataclass(frozen=True)
class Target:
    """The model that a TARGET stands for."""

    name: str  # short, for folders and tables
    model: str  # the base model, or a checkpoint of all weights
    origin: str  # what training began with
    adapter: Path | None = None
    run: Path | None = None
    step: int | None = None

    @property
    def plain(self) -> bool:
        """Whether it is a model as others made it."""
        return self.adapter is None and self.model == self.origin


def find_target(text: str, base: str | None = None) -> Target:
    """A run (its newest checkpoint), a checkpoint, an adapter folder or a plain model, however its path is spelt.

    base: the model under an adapter, where it is not the one that the adapter names.

    Raises:
        UserError: for a run without checkpoints, or an adapter without its weights: the base model alone is
            never evaluated in an adapter's name.
    """
    path = _plain_path(text)
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
    return Target(name=EMBEDDED if text == EMBEDDED else path.absolute().name, model=text, origin=text)


def _checkpoint_target(path: Path, base: str | None) -> Target:
    """A checkpoint of a run, or any other adapter."""
    whole = (path / "config.json").is_file()
    weights = path / ("model.safetensors" if whole else "adapter_model.safetensors")
    if not weights.is_file():
        what = "a model" if whole else "an adapter"
        raise UserError(f"{path}: {what} without its weights ({weights.name} is missing)")
    check_tensors(weights)
    check_sums(path)
    if whole and base is not None:
        raise UserError(f"--base: {path} is not an adapter, so it has no base model")
    adapter, place = None if whole else path, path.absolute()
    step = step_of(place.name)
    if step is not None and place.parent.name == "checkpoints" and _is_checkpoint(path):
        run = _plain_path(str(place.parents[1]))
        origin = base or str(read_form(path / "trainer.json", TrainerForm)["model"])
        model = str(path) if whole else origin
        return Target(run.absolute().name, model, origin, adapter=adapter, run=run, step=step)
    if whole:  # copied out of its run
        return Target(place.name, str(path), str(read_form(path / "trainer.json", TrainerForm)["model"]))
    named = base or read_form(path / "adapter_config.json", AdapterForm).get("base_model_name_or_path")
    if not named:
        raise UserError(f"{path / 'adapter_config.json'}: base_model_name_or_path is missing; name it with --base")
    return Target(place.name, str(named), str(named), adapter=path)


def _plain_path(text: str) -> Path:
    """A path without links, dots and trailing slashes; relative where it lies below the working directory."""
    try:
        path = Path(text).resolve()
    except (OSError, RuntimeError):  # a loop of links
        raise UserError(f"{text}: the path is a loop of symbolic links, or cannot be followed") from None
    here = Path.cwd()
    below = path.is_relative_to(here) and here != Path(here.anchor)  # at the root a relative path only loses its slash
    return path.relative_to(here) if below else path


def _is_checkpoint(path: Path) -> bool:
    return (path / "trainer.json").is_file()
