"""Runs several engines, each in a process with its own devices. If one dies, the others take over its requests."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from phfcli.core.config import EvalConfig
from phfcli.core.errors import FaultError, UserError
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.single import single_engine
from phfcli.core.storage.child_processes import ChildProcess, receive, send
from phfcli.core.types import Completion, Request, Sampling

Warn = Callable[[str], None]


@dataclass
class _Shard:
    """A process with its engine, and the indices of the requests that it has not answered yet."""

    number: int
    child: ChildProcess
    unanswered: set[int] = field(default_factory=set)


class ParallelEngine:
    """Distributes requests by prompt, so that the samples of one problem share a prefix cache."""

    def __init__(self, config: EvalConfig, serving: Serving, environments: Sequence[Mapping[str, str]], warn: Warn):
        """Starts a process with each of the environments; raises UserError if an engine refuses the model."""
        self._warn = warn
        tree = {**config.model_dump(mode="json"), "devices": None, "workers": None, "model": serving.settings.model}
        adapter = str(serving.adapter) if serving.adapter else None
        self._shards = [
            _Shard(number, ChildProcess(f"{__name__}:serve", [tree, serving.length, adapter], environment))
            for number, environment in enumerate(environments)
        ]
        self.name = self._await_starts()

    def sample(
        self, requests: Sequence[Request], sampling: Sampling, logprobs: bool = True
    ) -> Iterator[tuple[int, Completion]]:
        """Yields (index, completion) as completions finish, in whichever process.

        Raises FaultError when the last process has died.
        """
        options = asdict(sampling), logprobs
        for shard, share in zip(self._shards, split_by_prompt(requests, len(self._shards)), strict=True):
            self._hand_over(shard, share, requests, options)
        orphaned: set[int] = set()  # requests of processes that have died
        while any(shard.unanswered for shard in self._shards) or orphaned:
            for shard in self._ready():
                message = shard.child.receive()
                if message is None or isinstance(message, dict):
                    orphaned |= self._remove_dead(shard, message["failed"] if message else "")
                else:
                    index, ids, scores, finish = message
                    shard.unanswered.remove(index)
                    yield index, Completion(tuple(ids), tuple(scores), finish)
            if orphaned and (idle := [shard for shard in self._shards if not shard.unanswered]):
                for number, shard in enumerate(idle):
                    self._hand_over(shard, sorted(orphaned)[number :: len(idle)], requests, options)
                orphaned = set()

    def close(self) -> None:
        while self._shards:
            self._shards.pop().child.end()

    def _await_starts(self) -> str:
        names = [shard.child.receive() for shard in self._shards]
        for shard, answer in zip(self._shards, names, strict=True):
            if answer is None or "refused" in answer:
                self.close()
                if answer:
                    raise (FaultError if answer["code"] == 1 else UserError)(answer["refused"])
                raise FaultError(f"sampling process {shard.number} ended before it had started; its messages are above")
        for warning in dict.fromkeys(warning for answer in names for warning in answer["warnings"]):
            self._warn(warning)
        return str(names[0]["ready"])

    def _hand_over(self, shard: _Shard, share: Sequence[int], requests: Sequence[Request], options: Any) -> None:
        shard.unanswered = set(share)
        shard.child.send([[[i, requests[i].prompt_ids, requests[i].seed] for i in share], *options])

    def _ready(self) -> list[_Shard]:
        waiting = {shard.child.connection: shard for shard in self._shards if shard.unanswered}
        return [waiting[c] for c in wait(list(waiting)) if isinstance(c, Connection)]

    def _remove_dead(self, shard: _Shard, reason: str) -> set[int]:
        self._shards.remove(shard)
        shard.child.kill()
        why = f" ({reason})" if reason else ""
        if not self._shards:
            raise FaultError(
                reason
                or "every sampling process has died; what is finished is on disk, and the same evaluation goes on there"
            )
        self._warn(
            f"sampling process {shard.number} died{why}; the others take over its {len(shard.unanswered)} open samples"
        )
        return shard.unanswered


def split_by_prompt(requests: Sequence[Request], processes: int) -> list[list[int]]:
    """The indices of the requests for each of so many processes; all requests of a prompt go to one process."""
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        by_prompt.setdefault(request.prompt_ids, []).append(index)
    groups = list(by_prompt.values())
    return [[index for group in groups[process::processes] for index in group] for process in range(processes)]


def serve(connection: Connection, tree: dict[str, Any], length: int, adapter: str | None) -> None:
    """The function of each process: answers lists of requests until its pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its processes
    config = EvalConfig.model_validate(tree)
    warnings: list[str] = []
    try:
        engine = single_engine(config, Serving(config, length, Path(adapter) if adapter else None), warnings.append)
    except (UserError, FaultError) as error:
        send(connection, {"refused": str(error), "code": 1 if isinstance(error, FaultError) else 2})
        return
    send(connection, {"ready": engine.name, "warnings": warnings})
    try:
        while True:
            share, sampling, logprobs = receive(connection)
            requests = [Request(tuple(ids), seed) for _, ids, seed in share]
            for number, completion in engine.sample(requests, Sampling(**sampling), logprobs):
                send(connection, [share[number][0], completion.ids, completion.logprobs, completion.finish])
    except EOFError:
        pass
    except FaultError as error:  # the parent tells it, and gives the open requests to another process
        send(connection, {"failed": str(error)})
    finally:
        engine.close()
