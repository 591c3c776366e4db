"""Several processes on one machine, started and watched by torch's elastic agent: `phf train --processes N`."""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from phfcli.core.errors import FaultError

_JOB = "phf-train"
_GRACE_S = 300  # for the step at hand and its checkpoint, after SIGTERM


def launched_here() -> bool:
    """Whether this process is one of those that `launch` has started."""
    return os.environ.get("TORCHELASTIC_RUN_ID") == _JOB


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Runs `phf ARGUMENTS` in so many processes that know of each other; returns their common exit code.

    Raises:
        FaultError: when a process has been killed; the others have been ended then.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # of the agent: what went wrong is told below
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=_JOB,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        shutdown_timeout=_GRACE_S,
    )
    try:
        elastic_launch(config, sys.executable)("-P", "-m", "phfcli", *arguments)
    except SignalException as error:
        return 128 + int(error.sigval)
    except ChildFailedError as error:
        return _code(processes, {rank: failure.exitcode for rank, failure in error.failures.items()})
    return 0


def _code(processes: int, codes: dict[int, int]) -> int:
    """The exit code of the process that ended first: the agent has ended the others by SIGTERM."""
    killed = {rank: -code for rank, code in codes.items() if code < 0 and -code != signal.SIGTERM}
    for rank, number in killed.items():
        raise FaultError(
            f"process {rank} of {processes} was ended by {signal.Signals(number).name}, and the others with it; "
            "checkpoints are intact, and --resume goes on from the last one"
        )
    return next((code for code in codes.values() if code > 0), 1)
