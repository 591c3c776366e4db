"""A server that speaks vLLM's API over a real socket, and fails on purpose."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from phfcli.core.shipped_files import embedded_model

BASE = str(embedded_model())
END = 258  # the embedded model's end token

# answers of the right form that no sound server gives, and what is said of them
IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "outside": {"token_ids": [10_000, END]},
    "negative": {"token_ids": [-5, END]},
    "huge": {"token_ids": [2**70, END]},
    "middle": {"token_ids": [END, END]},
    "many": {"token_ids": [1] * 9, "finish_reason": "length", "logprobs": {"token_logprobs": [-1.0] * 9}},
    "above": {"logprobs": {"token_logprobs": [0.5, -1.0]}},
    "infinite": {"logprobs": {"token_logprobs": [float("-inf"), -1.0]}},
}


class Server:
    """Speaks vLLM's API on one port, through restarts, and fails where `fault` of (seed, attempt) names a way."""

    def __init__(self) -> None:
        self.fault: Callable[[int, int], str] = lambda *_: ""
        self.body: bytes | None = None  # of the answer to a completion, in place of a sound one
        self.model = {"id": BASE, "root": BASE, "parent": None, "max_model_len": 512}
        self.delay_s = 0.0
        self.adapters: dict[str, str] = {}
        self.calls: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.attempts: Counter[int] = Counter()
        self.running, self.most_running = 0, 0
        self.lock = threading.Lock()
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._connections: list[socket.socket] = []
        self._http = _Http(("127.0.0.1", self._port), _Handler)
        self._http.server = self
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Breaks every connection and forgets the adapters, like a process that is killed."""
        self._http.shutdown()
        self._http.server_close()
        self.adapters.clear()
        for connection in self._connections:
            with suppress(OSError):  # it may be closed already
                connection.shutdown(socket.SHUT_RDWR)

    def paths(self) -> Counter[str]:
        return Counter(path for path, _, _ in self.calls)

    def keep(self, connection: socket.socket) -> None:
        self._connections.append(connection)


class _Http(ThreadingHTTPServer):
    request_queue_size = 512
    block_on_close = False
    server: Server

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def setup(self) -> None:
        super().setup()
        self.server.server.keep(self.connection)

    def log_message(self, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        server = self.server.server
        server.calls.append((self.path, {}, dict(self.headers)))
        adapters = [{"id": n, "root": p, "parent": BASE} for n, p in server.adapters.items()]
        self._send(200, {"data": [server.model, *adapters]})

    def do_POST(self) -> None:
        server = self.server.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server.calls.append((self.path, body, dict(self.headers)))
        if self.path == "/v1/load_lora_adapter":
            server.adapters[body["lora_name"]] = body["lora_path"]
            self._send(200, {})
        elif self.path == "/v1/unload_lora_adapter":
            server.adapters.pop(body["lora_name"], None)
            self._send(200, {})
        else:
            self._complete(server, body)

    def _complete(self, server: Server, body: dict[str, Any]) -> None:
        with server.lock:
            server.attempts[body["seed"]] += 1
            server.running += 1
            server.most_running = max(server.most_running, server.running)
        time.sleep(server.delay_s)
        with server.lock:
            server.running -= 1
        if body["model"] not in {BASE, *server.adapters}:
            self._send(404, {"error": {"message": "no such model"}})
            return
        self._answer(server.fault(body["seed"], server.attempts[body["seed"]]), body)

    def _answer(self, fault: str, body: dict[str, Any]) -> None:
        server = self.server.server
        ids = [body["seed"] % 200, END]
        choice = {"token_ids": ids, "finish_reason": "stop", "logprobs": {"token_logprobs": [-1.0, -2.0]}}
        tree = {"model": body["model"], "choices": [choice]}
        if server.body is not None:
            self._send_bytes(200, server.body)
        elif fault.isdigit():
            self._send(int(fault), {"error": {"message": f"a fault\nof {fault}"}})
        elif fault == "hang":
            time.sleep(3)
        elif fault == "drop":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "cut":
            self._send(200, tree, promised=10_000)
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "half":
            self._send(200, tree, keep=30)
        else:
            choice |= {"abort": {"finish_reason": "abort"}, "short": {"finish_reason": "length"}}.get(fault, {})
            choice |= IMPOSSIBLE.get(fault, {})
            tree |= {"base": {"model": "other"}, "text": {"choices": [{"text": "hi"}]}}.get(fault, {})
            self._send(200, tree)

    def _send(self, status: int, tree: dict[str, Any], promised: int | None = None, keep: int | None = None) -> None:
        self._send_bytes(status, json.dumps(tree).encode()[:keep], promised)

    def _send_bytes(self, status: int, data: bytes, promised: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-length", str(promised or len(data)))
        if 300 <= status < 400:
            self.send_header("location", "http://127.0.0.1:1/")
        self.end_headers()
        self.wfile.write(data)
