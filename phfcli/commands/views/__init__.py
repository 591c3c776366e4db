"""What commands show on a terminal: tables, bars and lines, from plain results of `phfcli.core`.

Nothing here decides anything: a caller from Python gets the same results without it. rich is imported when something is
shown, not before.
"""
