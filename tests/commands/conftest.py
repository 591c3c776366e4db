"""The command line as a fixture."""

from command_line import phf

__all__ = ["phf"]
