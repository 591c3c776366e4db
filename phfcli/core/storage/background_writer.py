"""Runs work in a thread beside the main work."""

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class BackgroundWriter(Generic[T]):
    """A thread that calls `work` with all the items that have come in since its last call.

    Leaving the context waits until everything is done, also when the caller has failed. What `work` raises is raised
    to the caller by the next `put`, or at the end.
    """

    def __init__(self, work: Callable[[list[T]], None]) -> None:
        self._work = work
        self._queue: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def put(self, item: T) -> None:
        if self._failure is not None:
            raise self._failure
        self._queue.put(item)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        try:
            while items := self._next():
                self._work(items)
        except BaseException as failure:
            self._failure = failure

    def _next(self) -> list[T]:
        """Waits for the next item and takes those behind it; none when the end has come."""
        items: list[T] = []
        item = self._queue.get()
        while item is not None:
            items.append(item)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return items
        if items:
            self._queue.put(None)
        return items
