"""The teacher on a server reads what the same model reads here, and what a server answers is not trusted."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from states_server import StatesServer

from phfcli.core.config import TrainConfig
from phfcli.core.errors import FaultError, UserError
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.models.loading import load_model
from phfcli.core.models.passes import Batch, Pass, Sample, collate
from phfcli.core.objectives.build import build_objective
from phfcli.core.objectives.other_teachers import ExternalTeacher, ServedTeacher, load_external
from phfcli.core.types import Problem

CPU = torch.device("cpu")
PROBLEM = Problem("p", "Start with 45, add 12.")
TEXTS = ("<think>\n45+12=57\n</think>\n\n\\boxed{57}<|im_end|>", "45", "é12", "")
REFUSED = r"^teacher\.server http://127\.0\.0\.1:\d+: "


def config(model: str | Path, server: str | None = None, **settings: Any) -> TrainConfig:
    teacher = {"kind": "external", "model": str(model), "server": server}
    http = {"patience_s": 0.5, "timeout_s": 30.0}
    return TrainConfig.model_validate({"device": "cpu", "teacher": teacher, "http": http} | settings)


def start(name: str | Path) -> StatesServer:
    return StatesServer(load_model(config("embedded").model_copy(update={"model": str(name)})), str(name))


@pytest.fixture
def server() -> Iterator[StatesServer]:
    server = start("embedded")
    yield server
    server.stop()


def teacher(server: StatesServer, student: LanguageModel, **settings: Any) -> ServedTeacher:
    served = load_external(config(server.name, server.url, **settings), student.description)
    assert isinstance(served, ServedTeacher)
    return served


def batch_of(reader: ServedTeacher | ExternalTeacher, student: LanguageModel) -> Batch:
    encode = student.description.tokenizer.encode
    prompts = [encode(f"Start with {4**n}", add_special_tokens=False) for n in range(len(TEXTS))]
    samples = [
        reader.prepare(Sample(prompt, prompt, encode(text, add_special_tokens=False)), PROBLEM)
        for prompt, text in zip(prompts, TEXTS, strict=True)
    ]
    return collate(samples, 5, 0, CPU)


def both(name: str | Path, student: LanguageModel) -> tuple[Batch, Pass, Pass]:
    """The same batch as the served and the local model read it."""
    server = start(name)
    try:
        served = teacher(server, student)
        batch = batch_of(served, student)
        read = served.run_pass(student, batch, (len(student.blocks),))
    finally:
        server.stop()
    local = load_external(config(name), student.description)
    return batch, read, local.run_pass(student, batch, (len(student.blocks),))


def test_it_reads_what_the_model_reads_here(embedded: LanguageModel) -> None:
    batch, read, local = both("embedded", embedded)
    torch.testing.assert_close(read.hidden, local.hidden, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(read.head.weight, local.head.weight, rtol=0, atol=0)
    assert read.final is not None
    assert local.final is not None
    torch.testing.assert_close(read.final[batch.valid], local.final[batch.valid], rtol=1e-5, atol=1e-5)
    assert (read.layers, read.depth) == (local.layers, local.depth) == ((4,), 4)


def test_a_model_of_other_tokens_and_width_reads_its_own(stranger: Path, embedded: LanguageModel) -> None:
    batch, read, local = both(stranger, embedded)
    assert batch.in_teacher_tokens is not None
    assert read.final is not None
    assert local.final is not None
    valid = batch.in_teacher_tokens.valid
    torch.testing.assert_close(read.final[valid], local.final[valid], rtol=1e-5, atol=1e-5)
    assert (read.layers, read.depth) == (local.layers, local.depth) == ((6,), 6)


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "oprd"},
        {"objective": "oprd", "oprd": {"mu": 1.0}, "opd": {"support": "full"}},
        {"objective": "opd", "opd": {"support": "full"}},
        {"objective": "opsd"},
    ],
    ids=str,
)
def test_the_loss_is_the_local_teachers(
    settings: dict[str, Any], server: StatesServer, embedded: LanguageModel
) -> None:
    """The student's pass is another model's: with equal ones the loss would be nothing, whatever the teacher reads."""
    objective = build_objective(config("embedded", **settings))
    served, local = teacher(server, embedded), load_external(config("embedded"), embedded.description)
    batch = batch_of(served, embedded)
    layers = objective.needs.blocks(4)
    want = local.run_pass(embedded, batch, layers)
    noise = torch.Generator().manual_seed(0)
    other = Pass(
        hidden=want.hidden + torch.randn(want.hidden.shape, generator=noise),
        head=want.head,
        states=want.states,
        final=None if want.final is None else want.final + torch.randn(want.final.shape, generator=noise),
    )
    losses = [
        objective.loss(other, reader.run_pass(embedded, batch, layers), batch).total(batch.counts)
        for reader in (served, local)
    ]
    assert losses[1] > 0.01
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)


def test_it_takes_no_longer_sequences_than_its_server(server: StatesServer, embedded: LanguageModel) -> None:
    server.longest = 99
    assert teacher(server, embedded).context == 99
    server.longest = 100_000
    assert teacher(server, embedded).context == 512


def test_it_reads_within_a_running_loop_as_a_notebook_has_one(server: StatesServer, embedded: LanguageModel) -> None:
    async def work() -> int:
        return len(teacher(server, embedded).server.read([[1, 2, 3]])[0])

    assert asyncio.run(work()) == 3


def test_what_passes_is_tried_again(server: StatesServer, embedded: LanguageModel) -> None:
    served = teacher(server, embedded)
    server.errors = [(503, "busy"), (429, "slowly")]
    assert len(served.server.read([[1, 2, 3], [4]])) == 2
    assert len(server.bodies) == 1 + 4


def test_a_server_that_is_gone_ends_the_run_after_the_patience(server: StatesServer, embedded: LanguageModel) -> None:
    served = teacher(server, embedded)
    server.stop()
    with pytest.raises(FaultError, match=r"has failed for 0\.5 s without a success"):
        served.server.read([[1, 2, 3]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s[:, :-1].contiguous(), r"answered with \d+ bytes of states, where 4 tokens of width 128 take 2048"),
        (lambda s: s[:-1], r"answered with 1536 bytes of states, where 4 tokens of width 128 take 2048"),
        (lambda s: s.new_full(s.shape, float("nan")), "states that are not finite"),
        (lambda s: s.new_zeros(100_000), r"an answer is longer than 0 MiB"),
    ],
)
def test_impossible_states_are_refused_at_the_start(
    change: Callable[[Any], Any], message: str, server: StatesServer, embedded: LanguageModel
) -> None:
    server.fault = change
    with pytest.raises(UserError, match=REFUSED + ".*" + message):
        teacher(server, embedded)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"model": "other"}, "it was asked for embedded and has answered with 'other'"),
        ({"data": []}, "it does not answer like a vLLM server that pools each token's state"),
        ({"data": [{"data": "***"}]}, "it does not answer like a vLLM server that pools each token's state"),
        ({"data": [{"data": "é"}]}, "it does not answer like a vLLM server that pools each token's state"),
        ({"data": [{"data": [[0.5]]}]}, "it does not answer like a vLLM server that pools each token's state"),
    ],
)
def test_answers_of_another_form_are_refused(
    answer: dict[str, Any], message: str, server: StatesServer, embedded: LanguageModel
) -> None:
    server.answer = answer
    with pytest.raises(UserError, match=REFUSED + message):
        teacher(server, embedded)


@pytest.mark.parametrize(
    ("status", "said", "message"),
    [
        (404, "Not Found", "it does not pool; start it with --runner pooling"),
        (400, "Try switching the model's pooling_task", "it pools something else .*; start it with --runner pooling"),
        (400, "out of vocabulary", "status 400: out of vocabulary"),
        (503, "loading", r"no vLLM server answers there .*; start it with --runner pooling"),
        (401, "no key", "it wants an API key"),
    ],
)
def test_a_server_that_gives_no_states_is_refused_with_the_fix(
    status: int, said: str, message: str, server: StatesServer, embedded: LanguageModel
) -> None:
    server.errors = [(status, said)]
    with pytest.raises(UserError, match=REFUSED + message):
        teacher(server, embedded)


def test_a_server_of_another_model_is_refused(server: StatesServer, embedded: LanguageModel, stranger: Path) -> None:
    with pytest.raises(UserError, match=REFUSED + f"it serves embedded, and {stranger} is wanted"):
        load_external(config(stranger, server.url), embedded.description)


def test_no_server_and_no_url_are_refused(embedded: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"teacher\.server http://127\.0\.0\.1:1: no vLLM server answers there"):
        load_external(config("embedded", "http://127.0.0.1:1"), embedded.description)
    with pytest.raises(UserError, match=r"teacher\.server nonsense: expected http://HOST:PORT"):
        load_external(config("embedded", "nonsense"), embedded.description)
