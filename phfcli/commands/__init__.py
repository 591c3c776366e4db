"""One file for each command: it turns options into settings, makes one call of the core, and shows the result.

Results go to stdout, everything else to stderr. Nothing heavy is imported before it is needed, so that help appears at
once. Whatever a Python program needs as well is in `phfcli.core`.
"""
