"""Whatever a file, a row or a server holds: it is read as it stands, or refused in one line that names where.

Each test makes TRIES attempts from a seed that is written here; PHF_FUZZ_TRIES=2000 makes more of them.
"""

import json
import math
import os
import random
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from failing_server import BASE, END, Server
from mutations import VALID_FORMS, damaged, mutated
from safetensors.torch import save_file
from torch import Tensor

from phfcli.core.config import HttpSettings, ModelSettings
from phfcli.core.errors import FaultError, UserError
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.http import HttpEngine
from phfcli.core.runs.flows import open_flow
from phfcli.core.storage.problem_rows import Columns, read_problems
from phfcli.core.storage.schemas import Form, read_form
from phfcli.core.storage.tables import read_rows
from phfcli.core.storage.tensors import write_tensors
from phfcli.core.types import Request, Sampling

TRIES = int(os.environ.get("PHF_FUZZ_TRIES", "200"))
SEED = 20261125
MESSAGES = [{"role": "user", "content": "P"}, {"role": "assistant", "content": "S"}]
ROWS: list[dict[str, Any]] = [
    {"id": "a", "problem": "P", "solution": "S", "answer": "1"},
    {"id": 7, "problem": "Q", "solution": 3, "answer": [1, "2"]},
    {"id": None, "problem": MESSAGES, "solution": MESSAGES, "answer": 0.5},
]


def one_line(error: Exception, where: str) -> None:
    assert str(error).startswith(where)
    assert "\n" not in str(error)
    str(error).encode()  # half of a character could not be printed


@pytest.mark.parametrize("form", VALID_FORMS)
def test_a_file_that_is_read_back(tmp_path: Path, form: type[Form]) -> None:
    draw, path = random.Random(f"{SEED}{form.__name__}"), tmp_path / "f.json"
    for number in range(TRIES):
        tree = VALID_FORMS[form] if number % 2 else mutated(VALID_FORMS[form], draw)
        content = json.dumps(tree).encode()
        content = damaged(content, draw) if number % 2 else content
        path.write_bytes(content)
        try:
            read = read_form(path, form)
        except UserError as error:
            one_line(error, f"{path}: ")
        else:
            assert json.dumps(read) == json.dumps(json.loads(content))


def text_of(cell: Any, role: str) -> str | None:
    """What a cell says to a reader: its text, its number, or the last turn of that role."""
    if isinstance(cell, list):
        cell = [message["content"] for message in cell if message["role"] == role][-1]
    return None if cell is None or not str(cell).strip() else str(cell)


def test_a_row_of_data(tmp_path: Path) -> None:
    draw, path = random.Random(SEED), tmp_path / "rows.jsonl"
    columns = Columns(solution="solution", answer="answer", required=("problem", "answer"))
    for number in range(TRIES):
        lines = [json.dumps(row) for row in ROWS]
        place = draw.randrange(len(ROWS))
        lines[place] = json.dumps(mutated(ROWS[place], draw))
        content = "\n".join(lines).encode()
        path.write_bytes(damaged(content, draw) if number % 2 else content)
        try:
            problems = list(read_problems(read_rows(path), columns, str(path)))
        except UserError as error:
            one_line(error, str(path))
            continue
        rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]
        for row, problem in zip(rows, problems, strict=True):
            assert problem.problem == text_of(row["problem"], "user")
            assert problem.solution == text_of(row.get("solution"), "assistant")
            answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
            assert problem.golds == tuple(dict.fromkeys(str(answer).strip() for answer in answers))
        json.dumps([problem.id for problem in problems], ensure_ascii=False).encode()
        assert len({problem.id for problem in problems}) == len(problems)


@pytest.mark.slow
def test_an_answer_of_a_server() -> None:
    draw, server = random.Random(SEED), Server()
    sampling = Sampling(max_new_tokens=4)
    choice = {"token_ids": [5, END], "finish_reason": "stop", "logprobs": {"token_logprobs": [-1.0, -2.0]}}
    serving = Serving(ModelSettings(device="cpu", http=HttpSettings(patience_s=0.01, timeout_s=10.0)), 512, None)
    with closing(HttpEngine(server.url, serving)) as engine:
        for number in range(TRIES):
            tree = {"model": BASE, "choices": [choice]}
            body = json.dumps(tree if number % 2 else mutated(tree, draw)).encode()
            server.body = damaged(body, draw) if number % 2 else body
            try:
                [(_, drawn)] = engine.sample([Request((1, 2), number)], sampling)
            except UserError as error:
                one_line(error, f"engine: {server.url}: ")
            except FaultError as error:
                one_line(error, server.url)
            else:
                [sent] = json.loads(server.body)["choices"]
                assert drawn.ids == tuple(sent["token_ids"])
                assert drawn.logprobs == tuple(sent["logprobs"]["token_logprobs"])
                assert drawn.finish == sent["finish_reason"]
                assert all(type(token) is int and 0 <= token < 512 for token in drawn.ids)
                assert all(type(score) is not bool and math.isfinite(score) for score in drawn.logprobs)
    server.stop()


def flow_tensors() -> dict[str, Tensor]:
    """A small flow as it is on disk: two rollouts, of three and two valid positions."""
    states = torch.arange(2 * 2 * 3 * 4).reshape(2, 2, 3, 4).sin()
    return {
        **{"student": states, "teacher": states.flip(0)},
        "positions": torch.tensor([[0, 1, 3], [0, 2, 0]], dtype=torch.int32),
        "valid": torch.tensor([[True, True, True], [True, True, False]]),
        "layers": torch.tensor([1, 2], dtype=torch.int32),
        "ids": torch.arange(13, dtype=torch.int32),
        "lengths": torch.tensor([[1, 2, 4], [1, 2, 3]], dtype=torch.int32),
    }


def changed(tensor: Tensor, draw: random.Random) -> Tensor:
    """The tensor in another type or shape, or with another number in it."""
    kind = draw.random()
    if kind < 0.25:
        return tensor.to(draw.choice([torch.float32, torch.int64, torch.bool, torch.float16, torch.uint8]))
    if kind < 0.5:
        return draw.choice([tensor[:1], tensor[:0], tensor.flip(0), tensor.unsqueeze(0), tensor.reshape(-1), tensor.T])
    changed = tensor.clone()
    numbers = [0, 1, -1, 10**6, 2**31 - 1, math.nan, math.inf]
    number = draw.choice(numbers if changed.is_floating_point() else numbers[:5])
    changed.view(-1)[draw.randrange(changed.numel())] = number
    return changed


@pytest.mark.filterwarnings("ignore:The use of `x.T`")
def test_a_flow_file(tmp_path: Path) -> None:
    """A sealed file is read as it was written or refused; without a seal, what it holds has to fit together."""
    draw, path = random.Random(SEED), tmp_path / "step-000001.safetensors"
    metadata = {"format": "phf-flow", "version": "2", "texts": json.dumps({"3": "t"})}
    write_tensors(path, flow_tensors(), metadata | {"version": "3"}, sealed=True)
    sealed = path.read_bytes()
    for number in range(TRIES):
        tensors = flow_tensors()
        if number % 2:
            path.write_bytes(damaged(sealed, draw))
        else:
            name = draw.choice(list(tensors))
            tensors[name] = changed(tensors[name], draw).contiguous()
            told = metadata | draw.choice([{}, {}, {"texts": json.dumps(mutated({"3": "t"}, draw))}, {"version": "x"}])
            save_file(tensors, path, told)
        try:
            read = open_flow(path)
            rollouts = list(read.rollout_states())
        except UserError as error:
            one_line(error, f"{path}: ")
            continue
        assert len(read.counts) == 2
        assert len(rollouts) == sum(count > 1 for count in read.counts)
        for states in rollouts:
            assert states.student.isfinite().all()
            assert states.teacher.isfinite().all()
            assert len(states.tokens) == states.student.shape[1]
        if number % 2:
            assert path.read_bytes() == sealed
