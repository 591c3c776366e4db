"""One file a command: options to settings to one core call, and what is shown of its result.

Results go to stdout, everything else to stderr. Nothing heavy is imported before it is needed, so that help answers at
once. What a caller from Python would need lives in `phfcli.core`.
"""
