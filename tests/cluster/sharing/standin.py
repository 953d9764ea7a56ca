"""A server with the Hub's routes that push and pull go through, on 127.0.0.1: repositories in memory, one token that may write."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_of_this_test"
LARGE = (".safetensors",)  # go by LFS


@dataclass
class Repository:
    """Branches, and the files of every commit."""

    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    private: bool = False

    def commit(self, branch: str, files: dict[str, bytes], message: str = "") -> str:
        """A new commit on a branch: the files of the one before, and these."""
        before = self.commits.get(self.branches.get(branch, ""), {})
        self.messages.append(message)
        oid = hashlib.sha1(f"{len(self.messages)} {branch}".encode()).hexdigest()
        self.commits[oid], self.branches[branch] = {**before, **files}, oid
        return oid

    def at(self, revision: str) -> str | None:
        """The commit that a revision means."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


@dataclass
class Hub:
    """What is there, and what was asked."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # of LFS
    asked: list[str] = field(default_factory=list)
    read_only: bool = False

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a revision; what is changed in them is changed on the server."""
        found = self.repositories[repository]
        return found.commits[str(found.at(revision))]


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self._asked()
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            found = self._at(match[1], match[2] or "main")
            if found is not None:
                self._json({"id": match[1], "sha": found[0], "siblings": [{"rfilename": n} for n in found[1]]})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            found = self._at(match[1], match[2])
            if found is not None:
                self._file(found[0], found[1].get(match[3]))
        else:
            self._refuse(404, "")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        path, content = self._asked(), self._body()
        self.hub.objects[path.removeprefix("/lfs/")] = content
        self._json({})

    def do_POST(self) -> None:
        path, body = self._asked(), self._body()
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif self.hub.read_only:
            self._refuse(403, "", "You do not have write access")
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith("/info/lfs/objects/batch"):
            self._json({"transfer": "basic", "objects": [self._upload(one) for one in json.loads(body)["objects"]]})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", path):
            getattr(self, f"_{match[2]}")(self.hub.repositories[match[1]], match[1], match[3], body)
        else:
            self._refuse(404, "")

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if name in self.hub.repositories:
            self._json({"url": f"{self.hub.url}/{name}", "error": "it is there"}, 409)
            return
        made = self.hub.repositories[name] = Repository(private=asked.get("visibility") == "private")
        made.commit("main", {".gitattributes": b""}, "initial commit")
        self._json({"url": f"{self.hub.url}/{name}"})

    def _branch(self, there: Repository, name: str, branch: str, body: bytes) -> None:
        if branch in there.branches:
            self._json({"error": "it is there"}, 409)
            return
        there.branches[branch] = there.branches["main"]
        self._json({})

    def _preupload(self, there: Repository, name: str, revision: str, body: bytes) -> None:
        files = [f["path"] for f in json.loads(body)["files"]]
        modes = [
            {"path": p, "uploadMode": "lfs" if p.endswith(LARGE) else "regular", "shouldIgnore": False} for p in files
        ]
        self._json({"files": modes})

    def _upload(self, one: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.hub.url}/lfs/{one['oid']}"
        return {**one, "actions": {"upload": {"href": href, "header": {}}}}

    def _commit(self, there: Repository, name: str, revision: str, body: bytes) -> None:
        files, message = {}, ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                content = files[value["path"]] = self.hub.objects[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
        oid = there.commit(revision, files, message)
        self._json({"commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "success": True})

    def _asked(self) -> str:
        self.hub.asked.append(f"{self.command} {self.path}")
        return unquote(self.path.partition("?")[0])

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _at(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        there = self.hub.repositories.get(repository)
        if there is None or (there.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            self._refuse(401 if there is None else 404, "RepoNotFound")
            return None
        commit = there.at(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound")
            return None
        return commit, there.commits[commit]

    def _file(self, commit: str, content: bytes | None) -> None:
        if content is None:
            self._refuse(404, "EntryNotFound")
            return
        etag = hashlib.sha256(content).hexdigest()
        self._send(200, content, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'})

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        told = {"X-Error-Code": code} if code else {}
        self._send(
            status, json.dumps({"error": message}).encode(), told | ({"X-Error-Message": message} if message else {})
        )

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def running() -> Iterator[Hub]:
    """The server, until the end of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
