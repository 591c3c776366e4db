"""One grader for the tests that only judge; those that hurt workers make their own."""

from collections.abc import Iterator

import pytest

from phfcli.grading import Grader


@pytest.fixture(scope="session")
def grader() -> Iterator[Grader]:
    with Grader(workers=2, timeout_s=20.0) as shared:
        yield shared
