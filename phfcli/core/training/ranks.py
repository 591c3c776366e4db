"""The processes of one run: how they are started, which share of a step each has, and sums over all of them."""

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

from phfcli.core.errors import FaultError, UserError, first_line
from phfcli.core.models.description import pick_device

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
            "checkpoints are intact, and a resumed run goes on from the last one"
        )
    return next((code for code in codes.values() if code > 0), 1)


T = TypeVar("T")

_BUCKET_BYTES = 100 * 2**20  # summed in one message: an adapter's gradient in one, a large model's in several
_SILENCE = timedelta(hours=1)  # after which a rank that does not answer is given up; rollouts may take their time
_TO_BE_ENDED_S = 5.0
_MAIN_FIRST_S = 1.0


@dataclass(frozen=True)
class Ranks:
    """This process among the `size` that train together; rank 0 is the main one, which alone writes."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"  # that messages leave from

    @property
    def main(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of so many things are this rank's: neighbours, as many as anybody's but for one."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over ranks, which is the same on all of them."""
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
        """Every rank's items in the order of ranks, on all of them; the inverse of sharing them out."""
        if self.size == 1:
            return list(items)
        parts: list[Any] = [None] * self.size
        with in_contact():
            torch.distributed.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def any(self, flag: bool) -> bool:
        """Whether it is so on some rank: asked together, all of them go the same way."""
        return any(self.gather([flag]))

    def wait(self) -> None:
        """Until every rank has come this far."""
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
        """Raises on all ranks the UserError that one of them has raised within it. No rank may wait for another there.

        Raises:
            UserError: where it was raised on some rank.
        """
        refusal = None
        try:
            yield
        except UserError as error:
            refusal = str(error)
        refusals = [words for words in self.gather([refusal]) if words is not None]
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
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device: {device!r} cannot be several processes' own; use auto, cpu or cuda")
    if device != "cpu":
        _narrow_to_own_gpu()
    from accelerate import PartialState

    state = PartialState(cpu=pick_device(device).type == "cpu", timeout=_SILENCE)
    log = logging.getLogger("phfcli")
    before = log.level
    if state.process_index:
        log.setLevel(logging.ERROR)  # what is true of all is told once, by the main one
    try:
        yield Ranks(state.process_index, state.num_processes, str(state.device))
    except (UserError, FaultError):
        if state.process_index:
            time.sleep(_MAIN_FIRST_S)  # it tells the error; a launcher ends all when the first one has ended
        raise
    finally:
        log.setLevel(before)
        state.destroy_process_group()


def _narrow_to_own_gpu() -> None:
    """Before CUDA starts: an engine in a process of its own (vLLM) takes the first GPU that it sees."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    if not names:
        return  # there is none, or they are hidden on purpose
    here = int(os.environ.get("LOCAL_WORLD_SIZE", local + 1))
    if here > len(names):  # found by all processes alike, of which the first one says so
        raise UserError(f"{here} processes on this machine and {len(names)} GPUs: start fewer, or use device=cpu")
    os.environ["CUDA_VISIBLE_DEVICES"] = names[local]


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in their order, in groups of one dtype and of at most so many bytes, a larger one alone."""
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
    """Turns a lost connection into one line; sharded weights may find it in the midst of a pass.

    Whoever started the processes learns by itself which one has ended, says so, and ends the others: they wait for that
    a while, lest the consequence is told before the cause. `launch` tells it in any case.
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
        raise FaultError(f"another process of the run is gone ({first_line(error)}); checkpoints are intact") from error
