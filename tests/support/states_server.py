"""A server that pools a model's states over a real socket, as vLLM does, and fails on purpose."""

import base64
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from torch import Tensor

from phfcli.core.models.language_model import LanguageModel


class StatesServer:
    """Pools the states of one model; `fault` changes an answer's states, `errors` are answered first, one a request."""

    def __init__(self, model: LanguageModel, name: str, longest: int = 512) -> None:
        self.model, self.name, self.longest = model, name, longest
        self.fault: Callable[[Tensor], Tensor] = lambda states: states
        self.errors: list[tuple[int, str]] = []
        self.answer: dict[str, Any] = {}  # in place of parts of a sound one
        self.bodies: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def pool(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock, torch.no_grad():
            self.bodies.append(body)
            if self.errors:
                status, message = self.errors.pop(0)
                return status, {"error": {"message": message}}
            states = self.model.backbone(input_ids=torch.tensor([body["input"]]), use_cache=False).last_hidden_state[0]
        numbers = self.fault(states.to(getattr(torch, body["embed_dtype"]))).view(torch.uint8).numpy().tobytes()
        row = {"index": 0, "data": base64.b64encode(numbers).decode()}
        return 200, {"model": body["model"], "data": [row]} | self.answer


def _handler(server: StatesServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            served = {"id": server.name, "root": server.name, "parent": None, "max_model_len": server.longest}
            self._send(200, {"data": [served]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path == "/pooling":
                self._send(*server.pool(body))
            else:
                self._send(404, {"detail": "Not Found"})

        def _send(self, status: int, tree: dict[str, Any]) -> None:
            data = json.dumps(tree).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler
