"""The processes (ranks) of one run: starting them, their shares of a step, and sums over all of them."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from phfcli.core.errors import FaultError, UserError
from phfcli.core.models.device import pick_device, seeing, visible_devices

_JOB = "phf-train"
_GRACE_S = 300  # after SIGTERM, to finish the step and write its checkpoint


def launched_here() -> bool:
    """Whether `launch` has started this process."""
    return os.environ.get("TORCHELASTIC_RUN_ID") == _JOB


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Runs `phf ARGUMENTS` in so many processes of one run; returns its exit code.

    Raises:
        FaultError: when a process has been killed; the others have then been ended.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # of torch's agent: errors are reported below
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
            "checkpoints are intact, and a resumed run goes on from the last one"
        )
    return next((code for code in codes.values() if code > 0), 1)


T = TypeVar("T")

_BUCKET_BYTES = 100 * 2**20  # of a message: an adapter's gradient fits into one, a large model's takes several
_SILENCE = timedelta(hours=1)  # a rank that does not answer for longer has failed; rollouts can take long
_TO_BE_ENDED_S = 5.0  # for a launcher to end this process after another one was lost
_MAIN_FIRST_S = 1.0  # for the main rank to report an error before the others end


@dataclass(frozen=True)
class Ranks:
    """This process among the `size` that train together. Only rank 0, the main one, writes files."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"  # of the tensors in messages

    @property
    def main(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> range:
        """The indices of this rank's share of `count` items: consecutive, and shares differ by at most one item."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over ranks, bitwise the same on all of them."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket]).to(self.device)
            with in_contact():
                torch.distributed.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.detach().copy_(part.view_as(tensor))

    def total(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum of each number over ranks, in float64."""
        sums = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        self.sum_([sums])
        return dict(zip(values, sums.tolist(), strict=True))

    def gather(self, items: Sequence[T]) -> list[T]:
        """All ranks' items in the order of ranks, on every rank; the inverse of `share`."""
        if self.size == 1:
            return list(items)
        parts: list[Any] = [None] * self.size
        with in_contact():
            torch.distributed.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; all ranks call this together and get the same answer."""
        return any(self.gather([flag]))

    def wait(self) -> None:
        """Waits until every rank has called this."""
        self.gather([None])

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Lets the other ranks enter only after the main rank has left the context."""
        if not self.main:
            self.wait()
        yield
        if self.main:
            self.wait()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raises on all ranks a UserError that one has raised within it. No rank may wait for another within it.

        Raises:
            UserError: the first one of any rank.
        """
        refusal = None
        try:
            yield
        except UserError as error:
            refusal = str(error)
        refusals = [message for message in self.gather([refusal]) if message is not None]
        if refusals:
            raise UserError(refusals[0])


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The rank of this process among those that torchrun, `accelerate launch` or `launch` have started.

    Within it a process of a GPU run, and every process that it starts, sees its own GPU alone, as device 0.

    Raises:
        UserError: for a device that the processes cannot share.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if ":" in device or device == "mps":
        raise UserError(f"device: several processes cannot share {device!r}; use auto, or cpu")
    if device != "cpu":
        _narrow_to_own_device()
    own = pick_device(device)
    backend = torch.distributed.get_default_backend_for_device(own.type)  # NCCL for GPUs, gloo for CPUs, ...
    torch.distributed.init_process_group(backend, timeout=_SILENCE)
    log, rank = logging.getLogger("phfcli"), torch.distributed.get_rank()
    before = log.level
    if rank:
        log.setLevel(logging.ERROR)  # only the main rank logs warnings, which are the same on all
    try:
        yield Ranks(rank, torch.distributed.get_world_size(), str(own))
    except (UserError, FaultError):
        if rank:
            time.sleep(
                _MAIN_FIRST_S
            )  # the main rank reports the error; a launcher ends all processes when the first one ends
        raise
    finally:
        log.setLevel(before)
        torch.distributed.destroy_process_group()


def _narrow_to_own_device() -> None:
    """Lets this process see only its own accelerator: vLLM, in a child process, takes the first one that it sees.

    To be called before CUDA starts.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    names = visible_devices()
    if not names:
        return  # there is none, or all are hidden on purpose
    here = int(os.environ.get("LOCAL_WORLD_SIZE", local + 1))
    if here > len(names):  # every process finds this, and the main one reports it
        raise UserError(f"{here} processes on this machine and {len(names)} GPUs: start fewer, or use device=cpu")
    os.environ |= seeing([names[local]])


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, in groups of one dtype and at most _BUCKET_BYTES; a larger tensor is a group alone."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(other.nbytes for other in bucket) + tensor.nbytes > _BUCKET_BYTES
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextmanager
def in_contact() -> Iterator[None]:
    """Turns a lost connection to another rank into a FaultError; a sharded model may lose it in the middle of a pass.

    The launcher reports the process that has ended and then ends the others. These wait for that, so that the cause is
    reported before its consequence; under `launch`, which always reports, they end silently.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error)):
            raise
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_TO_BE_ENDED_S)
        if launched_here():
            raise SystemExit(1) from error
        raise FaultError(
            "another process of the run is gone; checkpoints are intact, and a resumed run goes on from the last one"
        ) from error
