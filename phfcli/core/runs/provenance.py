"""Records where figures come from: the identity of models, versions, hardware and the revision of this program."""

import datetime
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from phfcli.core.models.description import locate, revision
from phfcli.core.storage.files import folder_hash
from phfcli.core.version import __version__


def model_identity(name: str) -> dict[str, Any]:
    """What tells two models of one name apart: a hub commit, or a hash of a local folder's files."""
    where = Path(locate(name))
    if where.is_dir():
        return {"name": name, "sha256": folder_hash(where)}
    return {"name": name, "revision": revision(name)}


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware that figures may depend on."""
    packages = ("torch", "transformers", "peft", "accelerate", "safetensors", "math-verify")
    return {
        "versions": {"phfcli": __version__, "python": platform.python_version()} | {p: version(p) for p in packages},
        "git": _git_revision(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
    }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _git_revision() -> str | None:
    """The revision of phfcli's own checkout, if it runs from one and git is there."""
    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / ".git").exists() or shutil.which("git") is None:
        return None
    done = subprocess.run(
        ["git", "-C", str(checkout), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None
