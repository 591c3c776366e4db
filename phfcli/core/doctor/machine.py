"""Checks of the machine without training: versions, requirements, devices, attention, disk, hub."""

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import requires
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from phfcli.core.models.device import accelerator, cuda_versions, device_count, devices, has_bfloat16, is_cuda
from phfcli.core.storage.tables import hub_answers
from phfcli.core.version import __version__, installed

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class MachineCheck:
    """The result of one check, a line of the doctor's table.

    Attributes:
        part: the part of the machine or the program that was checked.
        found: the observation, as text.
        fix: what to do, in one sentence; empty if there is nothing to do.
        figures: the observation as values, for programs.
    """

    part: str
    state: State
    found: str
    fix: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def ok(part: str, found: str, **figures: Any) -> MachineCheck:
    return MachineCheck(part, "ok", found, figures=figures)


def warning(part: str, found: str, fix: str, **figures: Any) -> MachineCheck:
    return MachineCheck(part, "warning", found, fix, figures)


def failed(part: str, found: str, fix: str, **figures: Any) -> MachineCheck:
    return MachineCheck(part, "failed", found, fix, figures)


# the releases with which CI runs the tests
TESTED = {
    "python": ("3.11", "3.12"),
    "torch": ("2.13",),
    "transformers": ("5.19",),
    "peft": ("0.21",),
    "vllm": ("0.32",),
}
_REPORT = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "math-verify",
    "safetensors",
    "vllm",
    "flash-attn",
)
_PATIENCE_S = 20.0  # for an answer of nvidia-smi
_LEAST_DISK = 10 * 2**30  # bytes: a handful of checkpoints of a small model


def machine() -> Iterator[MachineCheck]:
    """Runs the checks that need no training step."""
    yield _versions()
    yield _requirements()
    yield _devices()
    yield _attention()
    yield _disk()
    yield _hub()


def _versions() -> MachineCheck:
    versions = {"phfcli": __version__, "python": platform.python_version()}
    versions |= {name: known for name in _REPORT if (known := installed(name))}
    versions |= {"NVIDIA driver": _driver()}
    versions |= cuda_versions()
    text = ", ".join(f"{name} {number}" for name, number in versions.items())
    untested = [name for name, tested in TESTED.items() if name in versions and _minor(versions[name]) not in tested]
    if untested:
        wanted = ", ".join(f"{name} {' and '.join(TESTED[name])}" for name in untested)
        return warning("versions", text, f"the tests run with {wanted}", **versions)
    return ok("versions", text, **versions)


def _minor(number: str) -> str:
    """The release of a version: 2.13 for 2.13.0+cpu."""
    return ".".join(number.split(".")[:2])


def _driver() -> str:
    """The version of the NVIDIA driver, from nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown, because nvidia-smi is missing" if cuda_versions() and device_count() else "none"
    try:
        command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE_S).stdout.split()
    except (OSError, subprocess.SubprocessError):
        output = []
    return output[0] if output else "does not answer nvidia-smi"


def _requirements() -> MachineCheck:
    """Compares the declared requirements with what is installed."""
    wrong = []
    for line in requires("phfcli") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        known = installed(wanted.name)
        if known is None or not wanted.specifier.contains(known, prereleases=True):
            wrong.append(f"{wanted.name} {known or 'missing'}, wanted {wanted.specifier}")
    if wrong:
        return failed("requirements", "; ".join(wrong), "install phfcli again in a new environment")
    return ok("requirements", "every required library is installed in a supported release")


def _devices() -> MachineCheck:
    cores, memory = len(os.sched_getaffinity(0)), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    host = f"{cores} cores, {memory / 2**30:.0f} GiB"
    if (kind := accelerator()) is None:
        if Path("/proc/driver/nvidia").exists():
            fix = "torch does not see the installed NVIDIA driver: install a build of torch for its CUDA version"
            return failed("devices", host, fix)
        return warning(
            "devices", f"no GPU; {host}", "only small models train on a CPU", cores=cores, memory_bytes=memory
        )
    names = [f"{name}, {size / 2**30:.0f} GiB" for name, size in devices()]
    text = f"{len(names)} x {names[0]}" if len(set(names)) == 1 else "; ".join(names)
    gpus = {"gpus": names, "cores": cores, "memory_bytes": memory}
    if not has_bfloat16(kind):
        return warning("devices", text, "these GPUs have no bfloat16: set dtype to float32", **gpus)
    return ok("devices", f"{text}, bfloat16; {host}", **gpus)


def _attention() -> MachineCheck:
    """Whether FlashAttention is installed; the steps report which attention they used."""
    if (kind := accelerator()) is None or not is_cuda(kind):
        return ok("attention", "FlashAttention is for GPUs of NVIDIA and AMD")
    if installed("flash-attn") is None:
        fix = "install flash-attn for models whose sequences cannot be packed"
        return warning("attention", "FlashAttention is not installed", fix)
    return ok("attention", f"FlashAttention {installed('flash-attn')}")


def _disk() -> MachineCheck:
    """The free disk space for runs and for the hub's files, and whether a file can be written among the runs."""
    runs = Path("runs").resolve() if Path("runs").is_dir() else Path.cwd()
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface"))
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    runs_free, cache_free = shutil.disk_usage(runs).free, shutil.disk_usage(existing).free
    text = f"{runs_free / 2**30:.0f} GiB free for runs in {runs}"
    text = f"{text}, {cache_free / 2**30:.0f} GiB for the hub's files in {cache}"
    try:
        with tempfile.NamedTemporaryFile(dir=runs) as file:
            file.write(b"x" * 2**20)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return failed("disk", f"{text}; runs cannot be written there: {error.strerror}", "work in another folder")
    if min(runs_free, cache_free) < _LEAST_DISK:
        return warning("disk", text, f"have at least {_LEAST_DISK / 2**30:.0f} GiB free", free_bytes=runs_free)
    return ok("disk", text, free_bytes=runs_free)


def _hub() -> MachineCheck:
    """Whether the hub answers, and accepts the token that is set. The token itself is never shown."""
    from huggingface_hub import get_token, whoami
    from huggingface_hub.errors import HfHubHTTPError

    token = get_token()
    if not hub_answers():
        fix = "models and data must be local or in the cache"
        return warning("hub", f"does not answer; {'a token is set' if token else 'no token'}", fix)
    if token is None:
        return ok("hub", "answers; no token")
    try:
        whoami(token)
    except HfHubHTTPError as error:
        refusal = f"answers, and refuses the token that is set (status {error.response.status_code})"
        return failed("hub", refusal, "log in again (`hf auth login`), or unset HF_TOKEN")
    except Exception as error:  # the client's HTTP library may raise anything
        return warning("hub", f"answers; the token was not checked ({type(error).__name__})", "try again later")
    return ok("hub", "answers, and accepts the token that is set")
