"""Between a client and a server of S3: passes everything on, or breaks it as it is told."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# "GET /bucket/runs/x" -> "" (pass on), "403", "500", "503", "cut" (half of the body), "hang", or "hide:REGEX" (left out of a list)
Fault = Callable[[str], str]


class Proxy:
    """Listens on ``port`` until it is stopped; ``asked`` holds what came."""

    def __init__(self, behind: int) -> None:
        self.behind, self.asked, self.over = behind, list[str](), threading.Event()
        self.fault: Fault = lambda request: ""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.handle(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        for verb in ("GET", "PUT", "POST", "HEAD", "DELETE"):
            setattr(Handler, f"do_{verb}", Handler.handle_any)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()

    def handle(self, one: BaseHTTPRequestHandler) -> None:
        body = self._body(one)
        request = f"{one.command} {one.path}"
        self.asked.append(request)
        fault = self.fault(request)
        if fault == "hang":
            self.over.wait()
            one.close_connection = True
            return
        if fault in ("403", "500", "503"):
            self._answer(one, int(fault), {}, b"")
            return
        status, headers, content = self._passed_on(one, body)
        if fault.startswith("hide:"):
            entry = rf"<Contents>(?:(?!</Contents>).)*<Key>[^<]*{fault[5:]}[^<]*</Key>.*?</Contents>"
            content = re.sub(entry.encode(), b"", content, flags=re.DOTALL)
        self._answer(one, status, headers, content, cut=fault == "cut")

    @staticmethod
    def _body(one: BaseHTTPRequestHandler) -> bytes:
        if one.headers.get("Transfer-Encoding") != "chunked":
            return one.rfile.read(int(one.headers.get("Content-Length") or 0))
        body = b""
        while size := int(one.rfile.readline().split(b";")[0], 16):
            body += one.rfile.read(size)
            one.rfile.readline()
        one.rfile.readline()
        return body

    def _passed_on(self, one: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        server = http.client.HTTPConnection("127.0.0.1", self.behind)
        try:
            told = {
                k: v
                for k, v in one.headers.items()
                if k.lower() not in ("transfer-encoding", "expect", "content-length")
            }
            server.request(one.command, one.path, body=body, headers={**told, "Content-Length": str(len(body))})
            answer = server.getresponse()
            content = answer.read()
            return answer.status, dict(answer.getheaders()), content
        finally:
            server.close()

    @staticmethod
    def _answer(
        one: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False
    ) -> None:
        one.send_response(status)
        told = {
            k: v for k, v in headers.items() if k.lower() not in ("content-length", "transfer-encoding", "connection")
        }
        length = {k.lower(): v for k, v in headers.items()}.get("content-length") if one.command == "HEAD" else None
        for name, value in {**told, "Content-Length": length or str(len(content))}.items():
            one.send_header(name, value)
        one.end_headers()
        if one.command != "HEAD":
            one.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            one.close_connection = True
