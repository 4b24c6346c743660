"""A Hub on loopback: real HTTP, the API that huggingface_hub uses, a separate storage host, and faults on demand.

Large files (LFS) redirect from the Hub's port to the storage's, as on the public Hub; others are served by the Hub.
Uploads use LFS (HF_HUB_DISABLE_XET), whole or in parts of `part_size` bytes; `hub_uploads` has that part of the API.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support import hub_uploads

LARGE = (".safetensors", ".gguf", ".parquet", ".bin", ".model")
TOKEN = "hf_good"  # reads gated and private repositories
STRANGER = "hf_stranger"  # valid, but its user has not accepted the licence
WRITER = "hf_writer"  # writes to the repositories of `org`
LIMITED = "hf_limited"  # of the kind whose rights the Hub does not list: it may not write
_REVISION = r"(?P<rev>refs/convert/[^/]+|[^/]+)"
_PAGE = 50  # entries in one page of a tree


@dataclass
class Repo:
    """A repository: its commits' files, and the branches and tags that name them."""

    name: str
    kind: str
    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    is_gated: bool = False
    is_private: bool = False

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit with exactly these files and let the branch name it."""
        text = json.dumps([self.name, len(self.commits), sorted((n, sha256(b)) for n, b in files.items())])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[branch] = sha
        return sha


@dataclass
class Fault:
    """A fault of the next `times` matching requests: `path` is searched in "METHOD HOST path".

    kind: `status` answers with `status`, `body` (and `retry_after`); `drop` hangs up without an answer; `cut` sends
    `after` bytes of the body and hangs up; `short` sends a correct answer of only `after` bytes; `etag` gives another
    ETag, `content` other bytes under the same ETag, `size` another total; `whole` ignores Range; `gzip` claims a
    compression; `redirect` redirects to the address `body`, where the storage answers as the Hub; `astray` names
    a file at the address `body`; `endless` answers with `status` and an endless body; `drip` sends a byte now and
    then; `digits` gives a range in digits that Python does not read.
    """

    kind: str
    path: str = "GET storage"
    times: int = 1
    skip: int = 0
    status: int = 503
    retry_after: str | None = None
    body: bytes = b"out of order"
    after: int = 1000


@dataclass
class Request:
    """A request: method, `hub` or `storage`, path, and header fields."""

    method: str
    host: str
    path: str
    headers: dict[str, str]


@dataclass
class HubServer:
    """The running server; add repositories and faults at any time."""

    endpoint: str = ""
    storage: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    tags: dict[tuple[str, int], str] = field(default_factory=dict)
    signature: int = 0
    part_size: int = 0
    parts: dict[tuple[str, int], bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self, name: str, files: Mapping[str, bytes] | Path, kind: str = "model", gated: bool = False,
        private: bool = False,
    ) -> Repo:  # fmt: skip
        """Publish a folder or a mapping of names to contents as the first commit of a new repository."""
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in files.rglob("*") if p.is_file()}
        repo = Repo(name, kind, {}, {}, gated, private)
        repo.commit({".gitattributes": b"* text=auto\n", **files})
        self.repos[kind, name] = repo
        return repo

    def fail(self, kind: str, path: str = "GET storage", **settings: Any) -> Fault:
        """Add a fault for the next matching requests."""
        fault = Fault(kind, path, **settings)
        self.faults.append(fault)
        return fault

    def expire_links(self) -> None:
        """Expire the storage links given so far, as signed links do after some time."""
        with self.lock:
            self.signature += 1

    def asked(self, pattern: str) -> list[Request]:
        """Return the requests so far in whose "METHOD HOST path" the pattern is found."""
        return [r for r in self.requests if re.search(pattern, f"{r.method} {r.host} {r.path}")]

    def tag(self, make: Callable[[bytes], str], content: bytes) -> str:
        """Return a content's hash, computed once: every range request needs it."""
        key = (make.__name__, id(content))
        if key not in self.tags:
            self.tags[key] = make(content)
        return self.tags[key]

    def _fault_for(self, what: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.path, what):
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that are killed during a request."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def running_hub() -> Iterator[HubServer]:
    """Run a Hub on two free ports of 127.0.0.1 within the block."""
    state = HubServer()
    servers = []
    for host in ("hub", "storage"):
        handler = type("Handler", (Handler,), {"state": state, "host": host})
        server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
    # two names: huggingface_hub 1 compares hosts only by name
    names = ("127.0.0.1", "localhost")
    state.endpoint, state.storage = (
        f"http://{name}:{s.server_address[1]}" for name, s in zip(names, servers, strict=True)
    )
    try:
        yield state
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Refusal(Exception):  # noqa: N818 - an answer
    """An answer with an error status, and the Hub's code and message for it."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one host, `hub` or `storage`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: HubServer
    host: str

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self) -> None:
        self.posted = self._body()
        parts = urlsplit(self.path)
        request = Request(self.command, self.host, unquote(parts.path), dict(self.headers.items()))
        self.state.requests.append(request)
        self.fault = self.state._fault_for(f"{request.method} {request.host} {request.path}")
        if self.fault is not None and self.fault.kind == "drop":
            self.close_connection = True
            self.connection.close()
            return
        if self.fault is not None and self.fault.kind == "status":
            extra = {"Retry-After": self.fault.retry_after} if self.fault.retry_after is not None else {}
            self.send(self.fault.status, self.fault.body, extra)
            return
        if self.fault is not None and self.fault.kind == "endless":
            self._send_without_end(self.fault.status)
            return
        if self.fault is not None and self.fault.kind == "redirect":
            self.send(307, b"", {"Location": self.fault.body.decode()})
            return
        if self.fault is not None and self.fault.kind == "astray":
            self.send(302, b"", {"Location": self.fault.body.decode("latin-1"), "X-Repo-Commit": "0" * 40,
                                  "X-Linked-Etag": f'"{"0" * 64}"', "X-Linked-Size": "9"})  # fmt: skip
            return
        try:
            (self._storage if self.host == "storage" and "/resolve/" not in request.path else self._hub)(
                request.path, parse_qs(parts.query)
            )
        except Refusal as e:
            extra = {"X-Error-Code": e.code} if e.code else {}
            self.send(e.status, e.message.encode(), {**extra, "X-Error-Message": e.message})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _hub(self, path: str, query: dict[str, list[str]]) -> None:
        name = r"(?P<repo>[^/]+/[^/]+)"
        if found := re.fullmatch(rf"/api/(?P<kind>model|dataset)s/{name}/tree/{_REVISION}(/(?P<sub>.*))?", path):
            self._tree(self._repo(found), found["rev"], found["sub"] or "", query)
        elif found := re.fullmatch(rf"/api/(?P<kind>model|dataset)s/{name}/paths-info/{_REVISION}", path):
            repo = self._repo(found)
            asked = json.loads(self.posted)["paths"]
            files = self._files(repo, found["rev"])[1]
            self.json([self._entry(n, files[n]) for n in asked if n in files])
        elif found := re.fullmatch(rf"/api/(?P<kind>model|dataset)s/{name}(/revision/(?P<rev>.+))?", path):
            self._info(self._repo(found), found["rev"] or "main", query)
        elif found := re.fullmatch(rf"/((?P<kind>dataset)s/)?{name}/resolve/{_REVISION}/(?P<file>.+)", path):
            self._resolve(self._repo(found), found["rev"], found["file"])
        elif not hub_uploads.answer(self, path):
            raise Refusal(404, "", "Not Found")

    def _repo(self, found: re.Match[str]) -> Repo:
        repo = self.state.repos.get((found["kind"] or "model", found["repo"]))
        if repo is None or (repo.is_private and self.token() not in (TOKEN, WRITER)):
            raise Refusal(404 if self.token() else 401, "RepoNotFound", "Repository not found")
        return repo

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _files(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repo.commits[commit]

    def _entry(self, name: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "oid": blob_id(content), "size": len(content), "path": name}
        if name.endswith(LARGE):
            entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
        return entry

    def _info(self, repo: Repo, revision: str, query: dict[str, list[str]]) -> None:
        commit, files = self._files(repo, revision)
        siblings = []
        for name, content in sorted(files.items()):
            sibling: dict[str, Any] = {"rfilename": name}
            if "blobs" in query:
                entry = self._entry(name, content)
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                if "lfs" in entry:
                    sibling["lfs"] = {"sha256": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 134}
            siblings.append(sibling)
        self.json({
            "_id": "0", "id": repo.name, "modelId": repo.name, "author": repo.name.split("/")[0], "sha": commit,
            "private": repo.is_private, "gated": "manual" if repo.is_gated else False, "disabled": False, "tags": [],
            "downloads": 0, "likes": 0, "siblings": siblings, "lastModified": "2024-01-01T00:00:00.000Z",
            "createdAt": "2024-01-01T00:00:00.000Z",
        })  # fmt: skip

    def _tree(self, repo: Repo, revision: str, below: str, query: dict[str, list[str]]) -> None:
        _, files = self._files(repo, revision)
        prefix = f"{below}/" if below else ""
        is_deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries: dict[str, dict[str, Any]] = {}
        for name, content in sorted(files.items()):
            if not name.startswith(prefix):
                continue
            folders = name[len(prefix) :].split("/")[:-1]
            for i in range(len(folders) if is_deep else min(1, len(folders))):
                path = prefix + "/".join(folders[: i + 1])
                entries[path] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
            if is_deep or not folders:
                entries[name] = self._entry(name, content)
        if below and not entries:
            raise Refusal(404, "EntryNotFound", f"{below} does not exist")
        start = int(query.get("cursor", ["0"])[0])
        extra = {}
        if start + _PAGE < len(entries):
            rest = "&".join(f"{k}={v[0]}" for k, v in query.items() if k != "cursor")
            url = f"{self.state.endpoint}{urlsplit(self.path).path}?{rest}&cursor={start + _PAGE}"
            extra["Link"] = f'<{url}>; rel="next"'
        self.json(list(entries.values())[start : start + _PAGE], extra)

    def _resolve(self, repo: Repo, revision: str, name: str) -> None:
        if repo.is_gated and self.token() != TOKEN:
            told = f"Access to model {repo.name} is restricted."
            raise Refusal(403 if self.token() else 401, "GatedRepo", told)
        commit, files = self._files(repo, revision)
        if name not in files:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        content = files[name]
        extra = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not name.endswith(LARGE):
            self._content(content, blob_id(content), extra)
            return
        tag = self.state.tag(sha256, content)
        self.state.blobs[tag] = content
        extra |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(content)), "ETag": f'"{blob_id(content)}"'}
        extra["Location"] = f"{self.state.storage}/{tag}?signature={self.state.signature}"
        self.send(302, b"", extra)

    def _storage(self, path: str, query: dict[str, list[str]]) -> None:
        if self.command == "PUT":
            hub_uploads.store(self, path)
            return
        if query.get("signature") != [str(self.state.signature)]:
            raise Refusal(403, "", "Request has expired")
        content = self.state.blobs.get(path[1:])
        if content is None:
            raise Refusal(404, "", "object not found")
        self._content(content, self.state.tag(_md5, content), {})

    def _content(self, content: bytes, tag: str, extra: dict[str, str]) -> None:
        """Send a file's bytes, all or the requested Range, changed by the fault."""
        kind = self.fault.kind if self.fault is not None else ""
        if kind == "etag":
            tag = tag[::-1]
        if kind in ("etag", "content"):
            content = bytes(b ^ 0x55 for b in content)
        if kind == "size":
            content += b"more"
        extra = {**extra, "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
        if kind == "gzip":
            extra["Content-Encoding"] = "gzip"
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or kind == "whole":
            self.send(200, content, extra)
            return
        start, stop = int(asked[1]), min(len(content), int(asked[2] or len(content)) + 1)
        if start >= len(content):
            self.send(416, b"", {**extra, "Content-Range": f"bytes */{len(content)}"})
            return
        if kind == "short":
            assert self.fault is not None
            stop = min(stop, start + self.fault.after)
        first = "0" * 5000 + str(start) if kind == "digits" else str(start)
        extra["Content-Range"] = f"bytes {first}-{stop - 1}/{len(content)}"
        self.send(206, content[start:stop], extra)

    def json(self, document: Any, extra: Mapping[str, str] | None = None) -> None:
        self.send(200, json.dumps(document).encode(), {"Content-Type": "application/json", **(extra or {})})

    def _send_without_end(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):  # whoever asked hung up
            while True:
                self.wfile.write(b"no" * 5000)

    def send(self, status: int, body: bytes, extra: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in extra.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault is not None and self.fault.kind == "drip":
            with contextlib.suppress(OSError):  # whoever asked hung up
                for i in range(len(body)):
                    self.wfile.write(body[i : i + 1])
                    self.wfile.flush()
                    time.sleep(0.02)
            return
        if self.fault is not None and self.fault.kind == "cut":
            self.wfile.write(body[: self.fault.after])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(body)
