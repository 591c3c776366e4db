"""A server that speaks as much of the hub's API as an upload needs: repositories, files by value, large files, commits.

It keeps what it is sent: `server.files` of the last commit, by path, and `server.tokens` of the requests.
"""

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_SMALL = 10_000  # bytes; larger files go another way, as the hub's do


class HubServer:
    """Started at once; `refusing` is a status that it answers everything but a greeting with.

    `answering` is what it then says: a text in which {token} is the request's own header, None for a cut connection.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.repos: list[dict[str, Any]] = []
        self.message = ""
        self.refusing: int | None = None
        self.answering: str | None = '{"error": "not allowed here"}'
        self._large: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """The status and the JSON for a request."""
        if path == "/api/repos/create":
            self.repos.append(json.loads(body))
            return 200, {"url": f"{self.url}/me/model", "name": "me/model"}
        if "/preupload/" in path:
            return 200, {"files": [self._mode(file) for file in json.loads(body)["files"]]}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._where(one) for one in json.loads(body)["objects"]]}
        if method == "PUT" and (found := re.fullmatch(r"/large/(\w+)", path)):
            self._large[found[1]] = body
            return 200, {}
        if "/commit/" in path:
            return self._commit(body)
        return 200, {"id": "me/model", "sha": "0" * 40, "siblings": [], "name": "me", "type": "user"}

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["size"] > _SMALL else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def _where(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {**wanted, "actions": {"upload": {"href": f"{self.url}/large/{wanted['oid']}"}}}

    def _commit(self, body: bytes) -> tuple[int, Any]:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.message = value["summary"]
            elif line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self._large[value["oid"]]
        return 200, {"commitUrl": f"{self.url}/me/model/commit/{'1' * 40}", "commitOid": "1" * 40, "success": True}

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's
        class Handler(BaseHTTPRequestHandler):
            def reply(self) -> None:
                hub.tokens.add(self.headers.get("Authorization", ""))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                if hub.refusing is not None and path != "/":
                    if hub.answering is None:
                        self.connection.close()
                        return
                    token = self.headers.get("Authorization", "")
                    status, content = hub.refusing, hub.answering.replace("{token}", token).encode()
                else:
                    status, answer = hub.answer(self.command, path, body)
                    content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = reply  # noqa: N815 - the library's names

            def log_message(self, format: str, *args: object) -> None: ...

        return Handler
