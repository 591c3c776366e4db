"""Signals in processes that tests start."""

import signal


def heed_signals() -> None:
    """For a new process: it heeds what tests that run in the background, or under nohup, are deaf to themselves."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
