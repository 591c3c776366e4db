"""The HTTP engine against a server that fails on purpose; what it draws is in test_http_vllm.py."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from failing_server import BASE, END, IMPOSSIBLE, Server

from phfcli.core.config import EvalConfig, HttpSettings, ModelSettings
from phfcli.core.errors import FaultError, UserError
from phfcli.core.models.language_model import LanguageModel
from phfcli.core.rollouts import http_client
from phfcli.core.rollouts import single as one_engine
from phfcli.core.rollouts.build import evaluation_engine
from phfcli.core.rollouts.engine import Serving
from phfcli.core.rollouts.http import HttpEngine
from phfcli.core.rollouts.http_client import Patience, ServedModel, TransientError, is_model
from phfcli.core.rollouts.single import single_engine
from phfcli.core.types import Completion, Request, Sampling

SAMPLING = Sampling(temperature=1.1, top_p=0.95, top_k=20, max_new_tokens=8)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def engine(server: Server, adapter: Path | None = None, length: int = 512, **settings: Any) -> "closing[HttpEngine]":
    http = HttpSettings(**{"patience_s": 5.0, "timeout_s": 30.0, "in_flight": 32} | settings)
    return closing(HttpEngine(server.url, Serving(ModelSettings(device="cpu", http=http), length, adapter)))


def requests(count: int) -> list[Request]:
    return [Request((1, 2, 3), seed) for seed in range(count)]


def check(drawn: list[tuple[int, Completion]], count: int) -> None:
    assert sorted(index for index, _ in drawn) == list(range(count))
    for index, completion in drawn:
        assert completion == Completion((index % 200, END), (-1.0, -2.0), "stop")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    (tmp_path / "adapter_config.json").write_text('{"r": 8}')
    (tmp_path / "adapter_model.safetensors").write_text("weights")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["500", "503", "429", "drop", "cut", "half", "hang", "abort"])
def test_what_passes_is_tried_again_and_each_index_comes_once(server: Server, fault: str) -> None:
    server.fault = lambda seed, attempt: fault if seed % 7 == 0 and attempt < 3 else ""
    patience = {"timeout_s": 1.0, "patience_s": 30.0} if fault == "hang" else {}
    with engine(server, **patience) as drawing:
        check(list(drawing.sample(requests(60), SAMPLING)), 60)
    assert all(server.attempts[seed] >= 3 for seed in range(0, 60, 7))


@pytest.mark.slow
def test_a_restart_is_survived_and_the_adapter_loaded_again(server: Server, adapter: Path) -> None:
    server.delay_s = 0.05
    with engine(server, adapter) as drawing:
        rest = drawing.sample(requests(200), SAMPLING)
        drawn = list(islice(rest, 60))
        server.stop()
        threading.Timer(0.5, server.start).start()
        check([*drawn, *rest], 200)
        assert server.paths()["/v1/load_lora_adapter"] == 2


@pytest.mark.slow
def test_a_server_that_stays_away_ends_it_after_the_patience(server: Server) -> None:
    with engine(server, patience_s=1.0) as drawing:
        drawn = drawing.sample(requests(200), SAMPLING)
        assert len(list(islice(drawn, 50))) == 50
        server.stop()
        stopped = time.monotonic()
        with pytest.raises(FaultError) as caught:
            list(drawn)
    assert 1.0 <= time.monotonic() - stopped < 3.0
    assert f"{server.url} has failed for 1 s without a success" in str(caught.value)
    assert "the same evaluation, or a resumed run, goes on from there" in str(caught.value)
    assert "\n" not in str(caught.value)
    server.start()


@pytest.mark.slow
def test_pauses_grow_up_to_a_bound(server: Server) -> None:
    server.fault = lambda *_: "500"
    with engine(server, patience_s=2.0) as drawing, pytest.raises(FaultError, match="a fault of 500"):
        list(drawing.sample(requests(1), SAMPLING))
    assert 15 <= server.attempts[0] <= 45  # pauses of 0.05 to 0.1 s


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("400", "status 400: a fault of 400"),
        ("404", "status 404: a fault of 404"),
        ("401", "it asks for an API key (status 401: a fault of 401); set VLLM_API_KEY"),
        ("307", "it redirects"),
        ("short", "start it as `vllm serve --generation-config vllm`"),
        ("base", f"it was asked for {BASE} and has answered with 'other'"),
        ("text", "it does not answer like a vLLM server"),
    ],
)
def test_a_mistake_is_told_at_once_in_one_line(server: Server, fault: str, message: str) -> None:
    server.fault = lambda *_: fault
    with engine(server, in_flight=1) as drawing, pytest.raises(UserError) as caught:
        list(drawing.sample(requests(50), SAMPLING))
    assert str(caught.value).startswith(f"engine: {server.url}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert server.attempts.total() == 1


def test_a_wrong_server_is_refused_at_the_start(server: Server) -> None:
    with pytest.raises(
        UserError, match="sequences of 512 tokens, and these reach 600; start it as `vllm serve --max-mod"
    ):
        engine(server, length=600)
    server.model |= {"id": "Qwen/Qwen3-8B", "root": "Qwen/Qwen3-8B"}
    with pytest.raises(UserError, match=f"it serves Qwen/Qwen3-8B, not {BASE}"):
        engine(server)
    server.stop()
    with pytest.raises(UserError, match=r"no vLLM server answers there .*docs/serving\.md"):
        engine(server)
    server.start()


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://host:port"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="engine:"):
        HttpEngine(url, Serving(ModelSettings(), 512))


def test_every_field_that_a_default_could_change_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    with engine(server) as drawing:
        list(drawing.sample([Request((5, 6), 7)], SAMPLING, logprobs=False))
    path, body, headers = server.calls[-1]
    assert headers["authorization"] == "Bearer secret"
    assert (path, body) == (
        "/v1/completions",
        {
            "model": BASE,
            "prompt": [5, 6],
            "seed": 7,
            "temperature": 1.1,
            "top_p": 0.95,
            "top_k": 20,
            "max_tokens": 8,
            "min_p": 0,
            "repetition_penalty": 1,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "stop_token_ids": [END],
            "logprobs": None,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "add_special_tokens": False,
            "stream": False,
        },
    )


def test_so_many_requests_are_in_flight_and_no_more(server: Server) -> None:
    server.delay_s = 0.1
    with engine(server, in_flight=20) as drawing:
        check(list(drawing.sample(requests(100), SAMPLING)), 100)
        assert list(drawing.sample([], SAMPLING)) == []
    assert server.most_running == 20


@pytest.mark.slow
def test_who_stops_in_between_can_sample_again(server: Server) -> None:
    server.delay_s = 0.05
    with engine(server, in_flight=4) as drawing:
        begun = drawing.sample(requests(1000), SAMPLING)
        next(begun)
        begun.close()
        check(list(drawing.sample(requests(60), SAMPLING)), 60)
    assert server.attempts.total() < 100


@pytest.mark.slow
def test_training_adapters_come_and_go(server: Server, student: LanguageModel, tmp_path: Path) -> None:
    with engine(server, adapter_folder=str(tmp_path)) as drawing:
        drawing.update(student)
        (first,) = server.adapters
        list(drawing.sample(requests(1), SAMPLING))
        assert server.calls[-1][1]["model"] == first
        drawing.update(student)
        (second,) = server.adapters
        assert second != first
        folder = Path(server.adapters[second])
        assert folder.is_relative_to(tmp_path)
        assert [f.name for f in folder.parent.iterdir()] == [folder.name]
        server.stop()  # it forgets the adapter
        server.start()
        check(list(drawing.sample(requests(40), SAMPLING)), 40)
        assert list(server.adapters) == [second]
    assert not server.adapters
    assert not list(tmp_path.iterdir())


def test_an_evaluated_adapter_stays_and_is_found_again(server: Server, adapter: Path) -> None:
    for _ in range(2):
        with engine(server, adapter) as drawing:
            check(list(drawing.sample(requests(3), SAMPLING)), 3)
    assert server.paths()["/v1/load_lora_adapter"] == 1
    assert list(server.adapters.values()) == [str(adapter)]
    assert len(list(adapter.iterdir())) == 2
    (adapter / "adapter_model.safetensors").write_text("other weights")
    with engine(server, adapter):
        assert len(server.adapters) == 2


def test_a_missing_adapter_folder_is_named(server: Server, student: LanguageModel) -> None:
    with (
        engine(server, adapter_folder="/nowhere") as drawing,
        pytest.raises(UserError, match=r"http\.adapter_folder: /nowhere: No such"),
    ):
        drawing.update(student)


def test_evaluation_takes_the_url_and_loads_no_weights(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(one_engine, "load_model")
    config = EvalConfig(engine=f"{server.url}/v1/", device="cpu")
    with closing(single_engine(config, Serving(config, 512), print)) as drawing:
        assert drawing.name == "http"
        check(list(drawing.sample(requests(3), SAMPLING)), 3)
    for option in ({"workers": 2}, {"devices": ("0",)}):
        with pytest.raises(UserError, match="devices, workers: not with the URL"):
            evaluation_engine(config.model_copy(update=option), Serving(config, 512), print)


def test_patience_is_for_failing_not_for_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(http_client.time, "monotonic", lambda: now)
    patience = Patience(limit_s=600, quiet_s=70)
    assert not patience.ends_with(TransientError("dropped"))
    now += 1200  # nobody failed and nobody finished: long completions
    assert not patience.ends_with(TransientError("dropped"))
    for _ in range(10):
        now += 60
        assert not patience.ends_with(TransientError("away"))
    now += 60
    assert patience.ends_with(TransientError("away"))
    patience.succeeded()
    now += 60
    assert not patience.ends_with(TransientError("no answer", waited=3600))
    now += 700
    assert patience.ends_with(TransientError("no answer", waited=3600))


@pytest.mark.parametrize(
    ("served", "wanted", "same"),
    [
        (ServedModel(id="any", root=BASE), "embedded", True),
        (ServedModel(id="embedded", root="/elsewhere/m"), "embedded", True),
        (ServedModel(id="x", root="/elsewhere/model"), "embedded", True),
        (ServedModel(id="x", root="/elsewhere/other"), "embedded", False),
        (ServedModel(id="x", root="/tmp"), "embedded", False),
        (ServedModel(id="Qwen/Qwen3-8B"), "Qwen/Qwen3-8B", True),
        (ServedModel(id="mine/Qwen3-8B"), "Qwen/Qwen3-8B", False),
        (ServedModel(id="q", root="/models/Qwen3-8B"), "Qwen/Qwen3-8B", True),
        (ServedModel(id="q", root="/models/Qwen3-4B"), "Qwen/Qwen3-8B", False),
    ],
)
def test_a_served_model_is_told_by_its_names(served: ServedModel, wanted: str, same: bool) -> None:
    assert is_model(served, wanted) == same


@pytest.mark.parametrize("fault", IMPOSSIBLE)
def test_what_no_server_can_have_drawn_is_refused_in_one_line(server: Server, fault: str) -> None:
    server.fault = lambda *_: fault
    with engine(server) as drawing, pytest.raises(UserError) as caught:
        list(drawing.sample(requests(1), SAMPLING))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"engine: {server.url}: it ")


def test_a_key_is_stripped_and_never_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", " secret-key-123\n")
    with engine(server) as drawing:
        check(list(drawing.sample(requests(1), SAMPLING)), 1)
    assert server.calls[-1][2]["authorization"] == "Bearer secret-key-123"
    answer = http_client.Answer(400, b'{"error": {"message": "no Bearer secret-key-123 here"}}')
    assert answer.message == "status 400: no Bearer *** here"
    monkeypatch.setenv("VLLM_API_KEY", "secret key\u00e9")
    with pytest.raises(UserError) as caught:
        engine(server)
    assert "secret" not in str(caught.value)


def test_a_password_in_the_url_is_refused_unseen() -> None:
    with pytest.raises(UserError, match="VLLM_API_KEY") as caught:
        HttpEngine("http://me:hidden@127.0.0.1:1", Serving(ModelSettings(device="cpu"), 64))
    assert "hidden" not in str(caught.value)


def test_errors_nested_without_end_are_a_status() -> None:
    assert http_client.Answer(400, b"[" * 100_000).message == "status 400"


def test_a_missing_certificate_file_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/cert.pem")
    with pytest.raises(UserError, match=r"SSL_CERT_FILE: /nowhere/cert\.pem"):
        engine(server)
