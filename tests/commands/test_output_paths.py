"""A path that cannot be written is refused before any work, in one line, by every command that writes one."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from refusals import refused

from phfcli.cli import app

Phf = Callable[..., Any]

# every option that names a file to write: the words up to it, and the ending that a name of it has
FILES = [
    (("doctor", "--output"), ".json"),
    (("report", "nowhere", "--output"), ".html"),
    (("grade", "nowhere", "--output"), ".jsonl"),
    (("probe", "nowhere", "--output"), ".html"),
    (("compare", "nowhere", "--plot"), ".png"),
    (("compare", "nowhere", "--markdown"), ".md"),
    (("compare", "nowhere", "--latex"), ".tex"),
    (("compare", "nowhere", "--csv"), ".csv"),
    (("compare", "nowhere", "--samples"), ".html"),
    (("diagnose", "nowhere", "--plot"), ".svg"),
    (("diagnose", "nowhere", "--csv"), ".csv"),
    (("collect", "nowhere", "--output"), ".safetensors"),
    (("bridge", "fit", "--teacher", "nowhere", "--output"), ".safetensors"),
    (("bridge", "fit", "--teacher", "nowhere", "--output", "b.safetensors", "--plot"), ".pdf"),
]
OTHER_PATHS = {("train", "--teacher-prompt"), ("collect", "--rollouts"), ("export", "--merged")}  # read, or folders
NAMES = [" ".join((words[0], words[-1])) for words, _ in FILES]


def closed(folder: Path) -> Path:
    """A folder that may not be written."""
    if os.geteuid() == 0:
        return Path("/sys")  # root may write into any folder of a disk
    (folder / "closed").mkdir(mode=0o500)
    return folder / "closed"


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "folder"


BAD = {
    "where no file can be made": (lambda _: Path("/proc"), "no file can be made there"),
    "that may not be written": (closed, "Permission denied"),
    "below a file": (below_a_file, "file is a file, not a folder"),
    "whose name is too long": (lambda folder: folder / ("x" * 300), "File name too long"),
}


def options(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every option of every command, with the command's first word."""
    for word, inner in getattr(command, "commands", {}).items():
        yield from options(inner, name or word)
    for option in getattr(command, "params", []) if name else []:
        if option.param_type_name == "option":
            yield name, option


def test_the_list_names_every_file_that_a_command_writes() -> None:
    paths = {
        (name, option.opts[0])
        for name, option in options(typer.main.get_command(app))
        if type(option.type).__name__ == "TyperPath"
    }
    assert paths == {(words[0], words[-1]) for words, _ in FILES} | OTHER_PATHS


@pytest.mark.parametrize(("words", "ending"), FILES, ids=NAMES)
def test_every_command_refuses_a_folder_in_the_place_of_a_file(
    phf: Phf, tmp_path: Path, words: tuple[str, ...], ending: str
) -> None:
    """So every such option goes through the one check, whose other refusals the next test looks at."""
    (tmp_path / f"x{ending}").mkdir()
    refused(phf(*words, f"x{ending}"), f"{words[-1]} x{ending}: is a folder; name a file")


@pytest.mark.parametrize("place", BAD)
def test_a_file_that_cannot_be_written(phf: Phf, tmp_path: Path, place: str) -> None:
    folder, why = BAD[place]
    path = folder(tmp_path) / "x.json"
    refused(phf("doctor", "--output", path), f"phf: --output {path}: ", why, "choose another path")


def test_a_device_is_not_replaced(phf: Phf, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(phf("doctor", "--output", "pipe"), "--output pipe: is a device")
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("place", BAD)
@pytest.mark.parametrize("command", [("train", "--steps", "1", "--quiet"), ("eval", "embedded", "--limit", "1")])
def test_a_folder_that_cannot_be_written(phf: Phf, tmp_path: Path, command: tuple[str, ...], place: str) -> None:
    folder, why = BAD[place]
    path = folder(tmp_path) / "run"
    refused(phf(*command, "--output-dir", path), f"output_dir {path}: ", why)


def test_a_model_folder_that_cannot_be_written(phf: Phf, evaluated_run: Path) -> None:
    refused(
        phf("export", evaluated_run, "--merged", "/proc/merged", "--quiet"), "merged /proc/merged: cannot be written"
    )


def test_what_is_refused_or_tried_leaves_nothing(phf: Phf, tmp_path: Path) -> None:
    refused(phf("report", "nowhere", "-o", "pages/of mine/report.html"), "nowhere")
    assert list(tmp_path.iterdir()) == []
