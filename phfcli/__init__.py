"""phfcli: on-policy self-distillation of reasoning models, with Privileged Hidden Flow."""

from phfcli.core.version import __version__

__all__ = ["__version__"]
