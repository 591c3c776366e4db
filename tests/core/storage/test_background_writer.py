"""BackgroundWriter work: everything that came in is done, in order, and a failure reaches the caller."""

import threading

import pytest

from phfcli.core.storage.files import BackgroundWriter


def test_all_that_came_in_is_done_in_order() -> None:
    seen: list[list[int]] = []
    with BackgroundWriter(seen.append) as background:
        for item in range(1000):
            background.put(item)
    assert [item for items in seen for item in items] == list(range(1000))


def test_what_comes_in_during_the_work_is_taken_together() -> None:
    started, release = threading.Event(), threading.Event()
    seen: list[list[int]] = []

    def work(items: list[int]) -> None:
        started.set()
        release.wait(10)
        seen.append(items)

    with BackgroundWriter(work) as background:
        background.put(0)
        started.wait(10)
        for item in (1, 2, 3):
            background.put(item)
        release.set()
    assert seen == [[0], [1, 2, 3]]


def test_a_failure_of_the_work_reaches_the_caller_at_the_end() -> None:
    def fail(_items: list[int]) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), BackgroundWriter(fail) as background:
        background.put(1)


def test_a_failure_of_the_work_stops_the_caller_on_its_way() -> None:
    failed = threading.Event()

    def fail(_items: list[int]) -> None:
        failed.set()
        raise OSError("disk full")

    def go_on() -> None:
        with BackgroundWriter(fail) as background:
            background.put(1)
            failed.wait(10)
            for item in range(10_000_000):
                background.put(item)
            pytest.fail("never told")

    with pytest.raises(OSError, match="disk full"):
        go_on()


def test_a_failure_of_the_caller_still_finishes_the_work() -> None:
    seen: list[list[int]] = []

    def stop() -> None:
        with BackgroundWriter(seen.append) as background:
            background.put(7)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert seen == [[7]]
