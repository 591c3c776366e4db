"""What the tests on a GPU share: they are skipped where torch sees none."""

import pytest
import torch
from command_line import phf

__all__ = ["phf"]


@pytest.fixture(autouse=True)
def cuda(request: pytest.FixtureRequest) -> torch.device:
    """The first CUDA device; a test that wants more says how many with `@pytest.mark.gpu(2)`."""
    mark = request.node.get_closest_marker("gpu")
    wanted = mark.args[0] if mark is not None and mark.args else 1
    there = torch.cuda.device_count()
    if there < wanted:
        pytest.skip(f"needs {wanted} CUDA device(s), torch {torch.__version__} sees {there}")
    return torch.device("cuda")
