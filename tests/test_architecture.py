"""The rooms: imports go one way, and no circle anywhere."""

import re
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "phfcli"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(PACKAGE, tmp_path / "phfcli", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("core/losses/positions.py", "from phfcli.core.models.passes import Pass"),
        ("core/storage/files.py", "from phfcli.core.runs.folder import step_name"),
        ("core/grading/judge.py", "from phfcli.core.losses.positions import select_positions"),
        ("core/evaluation/scores.py", "from phfcli.commands.output import percent"),
    ],
)
def test_an_upward_import_is_found(copy: Path, module: str, line: str) -> None:
    path = copy / "phfcli" / module
    path.write_text(f"{path.read_text()}\nif False:\n    {line}\n")
    done = lint_imports(copy)
    assert done.returncode == 1
    assert "BROKEN" in done.stdout


def test_modules_import_each_other_in_no_circle() -> None:
    """Imports for annotations count as well."""
    graph = grimp.build_graph("phfcli", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_one_module_knows_what_kind_of_device_there_is() -> None:
    named = re.compile(r"torch\.(cuda|xpu|npu|mps|hip|accelerator)\b|[\"']cuda[\"']|CUDA_VISIBLE_DEVICES")
    knowing = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if named.search(path.read_text())}
    assert knowing == {"core/models/device.py"}
