"""phfcli: on-policy self-distillation of reasoning models, with Privileged Hidden Flow."""

__version__ = "0.1.0"
