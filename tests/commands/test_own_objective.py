"""A mistake in an objective of another package ends in a traceback into its own file, below a line that names it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import Done

from phfcli.core import extensions

SOURCE = """
from phfcli.core.objectives.contract import LossTerms, Needs, Term

class Own:
    needs = Needs()

    def loss(self, student, teacher, batch):
        size = student.hidden.square().mean(-1).sum()
        return {returned}

def build(config):
    return Own()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Installs a package that adds the objective "mine", whose loss returns what a test says."""
    monkeypatch.syspath_prepend(tmp_path / "site")

    def install(returned: str) -> Path:
        about = tmp_path / "site" / "mine-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[phfcli.objectives]\nmine = mine:build\n")
        file = tmp_path / "site" / "mine.py"
        file.write_text(SOURCE.format(returned=returned))
        return file

    yield install
    extensions._registered["objectives"].clear()
    sys.modules.pop("mine", None)


def train(phf: Callable[..., Done]) -> Done:
    settings = ("batch_size=2", "rollout.max_new_tokens=8", "lora.r=2", "output_dir=run")
    options = [part for pair in settings for part in ("--set", pair)]
    return phf("train", "--objective", "mine", "--steps", 1, *options, "--quiet")


def test_a_sound_one_trains(own: Callable[[str], Path], phf: Callable[..., Done]) -> None:
    own("LossTerms({'size': Term(size, per='tokens')})")
    assert train(phf).code == 0


@pytest.mark.slow
def test_a_run_goes_on_with_the_code_that_it_began_with(own: Callable[[str], Path], phf: Callable[..., Done]) -> None:
    file = own("LossTerms({'size': Term(size, per='tokens')})")
    assert train(phf).code == 0
    more = ("train", "--resume", "--output-dir", "run", "--steps", 2, "--quiet")
    file.write_text(file.read_text().replace(".mean(-1)", ".mean(-1) * 2"))
    done = phf(*more)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "resume: objective mine: its code is not that which the run began with" in done.err
    assert phf(*more, "--force").code == 0


@pytest.mark.parametrize(
    ("returned", "error"),
    [
        ("student.statez", "AttributeError: 'Pass' object has no attribute 'statez'"),
        ("LossTerms({'size': size})", "TypeError: LossTerms takes one term at least, and each is a Term"),
    ],
)
def test_what_it_raises_is_shown_where_it_is(
    returned: str, error: str, own: Callable[[str], Path], phf: Callable[..., Done]
) -> None:
    file = own(returned)
    done = train(phf)
    assert done.code == 1
    line, *shown = [one for one in done.err.splitlines() if not one.startswith("warning")]
    assert line.startswith("phf: objective mine: its own code has failed, as the traceback below shows")
    assert any(f'"{file}", line 9, in loss' in one for one in shown)
    assert shown[-1] == error
    assert "fault of phf" not in done.err


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("None", "objective: its loss returned NoneType; it returns LossTerms"),
        ("LossTerms({'size': Term(size.detach(), per='tokens')})", "no gradient of its loss reaches a weight"),
    ],
)
def test_a_loss_that_cannot_be_trained_on_is_told_in_one_line(
    returned: str, words: str, own: Callable[[str], Path], phf: Callable[..., Done]
) -> None:
    own(returned)
    done = train(phf)
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err
