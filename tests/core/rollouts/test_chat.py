"""Chat completions of any server: what is asked, what comes back, and what a server may refuse."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from command_line import Done, phf
from hypothesis import given
from hypothesis import strategies as st

from phfcli.core.config import HttpSettings, ModelSettings
from phfcli.core.errors import FaultError, UserError
from phfcli.core.models.prompts import Prompts
from phfcli.core.rollouts.chat import ChatEngine, served_model
from phfcli.core.rollouts.engine import Serving
from phfcli.core.types import Completion, Request, Sampling

__all__ = ["phf"]

Reply = Callable[[dict[str, Any]], tuple[int, Any]]


def said(content: str | None, finish: str = "stop", tokens: int = 7, **more: str) -> tuple[int, Any]:
    choice = {"message": {"role": "assistant", "content": content, **more}, "finish_reason": finish}
    return 200, {"choices": [choice], "usage": {"completion_tokens": tokens}}


class ChatServer(ThreadingHTTPServer):
    """Answers each request with what `reply` says of its body."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply: Reply = lambda _: said("\\boxed{4}")
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append({"path": self.path, **body})
        self.server.headers.append(dict(self.headers))
        status, tree = self.server.reply(body)
        content = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as server:
        yield server
        server.shutdown()


MODEL = served_model("any/model")
PROMPT = tuple(Prompts(MODEL.tokenizer).student("2 + 2?"))


def draw(server: ChatServer, sampling: Sampling = Sampling(max_new_tokens=50), count: int = 1) -> list[Completion]:  # noqa: B008
    settings = ModelSettings(model="any/model", http=HttpSettings(api="chat", patience_s=2.0))
    with closing(ChatEngine(server.url, Serving(settings, 512))) as engine:
        drawn = engine.sample([Request(PROMPT, seed) for seed in range(count)], sampling, logprobs=False)
        return [completion for _, completion in sorted(drawn)]


@given(st.text())
def test_the_tokens_of_a_served_model_stand_for_its_text(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    ids = MODEL.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert MODEL.text(ids) == text
    assert MODEL.text([*ids, *MODEL.eos_ids]) == text


def test_a_request_says_how_to_sample_and_the_answer_is_text(server: ChatServer) -> None:
    (completion,) = draw(server, Sampling(temperature=0.6, top_p=0.95, top_k=20, max_new_tokens=50))
    (body,) = server.bodies
    content = "2 + 2?\n\nPlease reason step by step, and put your final answer within \\boxed{}."
    assert body["messages"] == [{"role": "user", "content": content}]
    assert body["path"] == "/v1/chat/completions"
    asked = {name: body[name] for name in ("model", "temperature", "top_p", "top_k", "max_tokens", "seed")}
    assert asked == {
        "model": "any/model",
        **{"temperature": 0.6, "top_p": 0.95, "top_k": 20},
        **{"max_tokens": 50, "seed": 0},
    }
    assert MODEL.text(completion.ids) == "\\boxed{4}"
    assert (completion.finish, completion.served_tokens, completion.logprobs) == ("stop", 7, ())


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thinking_that_comes_apart_is_put_before_the_answer(server: ChatServer, name: str) -> None:
    server.reply = lambda _: said("\\boxed{4}", **{name: "two and two"})
    assert MODEL.text(draw(server)[0].ids) == "<think>\ntwo and two\n</think>\n\n\\boxed{4}"


@pytest.mark.parametrize(("finish", "expected"), [("length", "length"), ("stop", "stop"), ("content_filter", "stop")])
def test_what_ended_a_completion(server: ChatServer, finish: str, expected: str) -> None:
    server.reply = lambda _: said(None, finish)
    (completion,) = draw(server)
    assert (completion.finish, MODEL.text(completion.ids)) == (expected, "")


def test_fields_that_a_server_refuses_by_name_are_left_out(server: ChatServer) -> None:
    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        if "max_tokens" in body:
            return 400, {"error": {"message": "max_tokens is not supported, use max_completion_tokens"}}
        return (400, {"error": {"message": "unknown field: seed"}}) if "seed" in body else said("yes")

    server.reply = reply
    assert [MODEL.text(completion.ids) for completion in draw(server, count=3)] == ["yes"] * 3
    assert "seed" not in server.bodies[-1]
    assert server.bodies[-1]["max_completion_tokens"] == 50


def test_a_busy_server_is_asked_again(server: ChatServer) -> None:
    server.reply = lambda _: said("yes") if len(server.bodies) > 2 else (429, {"error": {"message": "slow down"}})
    assert MODEL.text(draw(server)[0].ids) == "yes"


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        ((401, {"error": {"message": "no key"}}), UserError, "asks for an API key.*set VLLM_API_KEY"),
        ((404, {"error": {"message": "no such model"}}), UserError, "no such model"),
        ((200, {"choices": []}), UserError, "does not answer like a server with chat completions"),
        ((200, "hello"), UserError, "does not answer like a server with chat completions"),
        ((503, {}), FaultError, "has failed for 2 s without a success"),
    ],
)
def test_a_server_that_cannot_be_used_is_told_in_a_line(
    server: ChatServer, answer: tuple[int, Any], kind: type[Exception], says: str
) -> None:
    server.reply = lambda _: answer
    with pytest.raises(kind, match=says):
        draw(server)


def test_an_evaluation_on_a_server(
    server: ChatServer, phf: Callable[..., Done], problems_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    golds = {1: "9", 12: "20", 23: "31", 34: "wrong"}
    server.reply = lambda body: said(
        next(f"\\boxed{{{gold}}}" for n, gold in golds.items() if f"with {n}," in body["messages"][0]["content"])
    )
    monkeypatch.setenv("MY_KEY", "key-of-mine")
    asks = ("eval", "someone/some-model", "--engine", server.url, "--set", "http.api=chat", "--bench", problems_file)
    plan = phf(*asks, "--n", 2, "--max-new-tokens", 100, "--dry-run", "--json").json
    assert (plan["tokens"], plan["memory_bytes"]) == (800, None)
    done = phf(*asks, "--n", 2, "--set", "http.key=MY_KEY", "--json")
    (summary,) = done.json["benches"]
    assert (summary["average"], summary["samples"], summary["mean_tokens"]) == (0.75, 8, 7)
    assert "loops_share" not in summary or summary["loops_share"] is None
    assert any("unknown" in note for note in summary["notes"])
    assert server.headers[0]["authorization"] == "Bearer key-of-mine"
    settings = json.loads((Path(summary["folder"]) / "settings.json").read_text())
    assert settings["model"] == {
        "name": "someone/some-model",
        **dict.fromkeys(("revision", "template", "seed", "precision"), "unknown"),
    }
    assert Path(summary["folder"]).parts[:2] == ("runs", "someone-some-model")
    assert phf(*asks, "--n", 2, "--json").json["benches"][0]["average"] == 0.75  # read, not drawn anew
    assert len(server.bodies) == 8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("eval", "m", "--set", "http.api=chat"), "http.api: chat asks a server; set engine to its http://HOST:PORT"),
        (
            ("train", "--engine", "http://127.0.0.1:9", "--set", "http.api=chat"),
            "http.api: chat completions do not follow training",
        ),
        (("eval", "m", "--engine", "http://", "--set", "http.api=chat"), "expected http://HOST:PORT"),
        (("eval", "m", "--engine", "http://me:word@host", "--set", "http.api=chat"), "engine"),
        (("eval", "m", "--set", "http.api=chats"), "http.api: 'chats' is unknown; did you mean 'chat'?"),
    ],
)
def test_what_does_not_go_with_chat_is_told_in_a_line(
    phf: Callable[..., Done], arguments: tuple[str, ...], says: str
) -> None:
    done = phf(*arguments, "--quiet")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert says in done.err
