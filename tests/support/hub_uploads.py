"""The part of the loopback Hub's API that writes: tokens, new repositories, LFS uploads, and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.hub_server import Handler, Repo

_ROLES = {"hf_good": "read", "hf_stranger": "read", "hf_writer": "write", "hf_limited": "fineGrained"}
_NAME = r"(?P<repo>[^/]+/[^/]+)"


def answer(handler: Handler, path: str) -> bool:
    """Answer a request of the Hub's writing API; return False for any other."""
    posted: Any = json.loads(handler.posted) if handler.posted[:1] == b"{" and "/commit/" not in path else {}
    if path == "/api/whoami-v2":
        handler.json(_user(handler))
    elif path == "/api/repos/create":
        _create(handler, posted)
    elif path == "/api/validate-yaml":
        if "\nlicense: [" in posted["content"]:
            raise _refuse(400, json.dumps({"errors": [{"message": "license must be a string"}], "warnings": []}))
        handler.json({"errors": [], "warnings": []})
    elif found := re.fullmatch(rf"/api/models/{_NAME}/preupload/(?P<rev>.+)", path):
        handler.json({"files": [_mode(_writable(handler, found), file) for file in posted["files"]]})
    elif found := re.fullmatch(rf"/{_NAME}\.git/info/lfs/objects/batch", path):
        _writable(handler, found)
        objects = [_batch(handler, found["repo"], entry) for entry in posted["objects"]]
        handler.json({"transfer": "basic", "objects": objects})
    elif found := re.fullmatch(rf"/{_NAME}\.git/info/lfs/objects/(?P<what>verify|complete)", path):
        _finish(handler, found["what"], posted)
    elif found := re.fullmatch(rf"/api/models/{_NAME}/commit/(?P<rev>.+)", path):
        _commit(handler, _writable(handler, found), found["rev"])
    else:
        return False
    return True


def _refuse(status: int, message: str, code: str = "") -> Exception:
    from tests.support.hub_server import Refusal

    return Refusal(status, code, message)


def _user(handler: Handler) -> dict[str, Any]:
    role = _ROLES.get(handler.token())
    if role is None:
        raise _refuse(401, "Invalid credentials in Authorization header")
    return {"type": "user", "name": "tester", "orgs": [{"name": "org"}], "auth": {"accessToken": {"role": role}}}


def _check_write(handler: Handler, owner: str) -> None:
    if handler.token() not in _ROLES:
        raise _refuse(401, "Invalid credentials in Authorization header")
    if handler.token() != "hf_writer" or owner not in ("org", "tester"):
        raise _refuse(403, f"Forbidden: you don't have the rights to write to {owner}")


def _create(handler: Handler, posted: dict[str, Any]) -> None:
    from tests.support.hub_server import Repo

    owner = posted.get("organization") or "tester"
    _check_write(handler, owner)
    name = f"{owner}/{posted['name']}"
    if ("model", name) in handler.state.repos:
        url = f"{handler.state.endpoint}/{name}"
        raise _refuse(409, json.dumps({"error": "You already created this model repo", "url": url}))
    is_private = bool(posted.get("private")) or posted.get("visibility") == "private"
    repo = Repo(name, "model", {}, {}, is_private=is_private)
    repo.commit({".gitattributes": b"*.gguf filter=lfs\n"})
    handler.state.repos["model", name] = repo
    handler.json({"url": f"{handler.state.endpoint}/{name}", "id": "0"})


def _writable(handler: Handler, found: re.Match[str]) -> Repo:
    repo = handler.state.repos.get(("model", found["repo"]))
    if repo is None:
        raise _refuse(404, "Repository not found", "RepoNotFound")
    _check_write(handler, found["repo"].partition("/")[0])
    return repo


def _mode(repo: Repo, file: dict[str, Any]) -> dict[str, Any]:
    from tests.support.hub_server import LARGE, blob_id, sha256

    is_large = file["path"].endswith(LARGE)
    held = repo.commits[repo.refs["main"]].get(file["path"])
    oid = None if held is None else sha256(held) if is_large else blob_id(held)
    mode = "lfs" if is_large else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}


def _batch(handler: Handler, repo: str, entry: dict[str, Any]) -> dict[str, Any]:
    state, oid, size = handler.state, entry["oid"], entry["size"]
    if oid in state.blobs:
        return {"oid": oid, "size": size}
    base = f"{state.endpoint}/{repo}.git/info/lfs/objects"
    upload: dict[str, Any] = {"href": f"{state.storage}/upload/{oid}"}
    if state.part_size and size > state.part_size:
        parts = range(1, -(-size // state.part_size) + 1)
        header = {"chunk_size": str(state.part_size), **{str(n): f"{state.storage}/upload/{oid}/{n}" for n in parts}}
        upload = {"href": f"{base}/complete", "header": header}
    return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{base}/verify"}}}


def store(handler: Handler, path: str) -> None:
    """Store an uploaded file, or a part of one."""
    found = re.fullmatch(r"/upload/([0-9a-f]{64})(?:/(\d+))?", path)
    assert found is not None
    if found[2]:
        handler.state.parts[found[1], int(found[2])] = handler.posted
    else:
        _keep(handler, found[1], handler.posted)
    handler.send(200, b"", {"ETag": f'"{hashlib.md5(handler.posted).hexdigest()}"'})


def _keep(handler: Handler, oid: str, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != oid:
        raise _refuse(400, "the content does not have this hash")
    handler.state.blobs[oid] = content


def _finish(handler: Handler, what: str, posted: dict[str, Any]) -> None:
    if what == "complete":
        numbers = [part["partNumber"] for part in posted["parts"]]
        _keep(handler, posted["oid"], b"".join(handler.state.parts[posted["oid"], n] for n in numbers))
    elif posted["oid"] not in handler.state.blobs:
        raise _refuse(404, "the object was not uploaded")
    handler.json({})


def _commit(handler: Handler, repo: Repo, branch: str) -> None:
    files = dict(repo.commits[repo.refs[branch]])
    for line in handler.posted.splitlines():
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "lfsFile":
            if value["oid"] not in handler.state.blobs:
                raise _refuse(400, f"{value['path']} was not uploaded")
            files[value["path"]] = handler.state.blobs[value["oid"]]
    sha = repo.commit(files, branch)
    url = f"{handler.state.endpoint}/{repo.name}/commit/{sha}"
    handler.json({"commitUrl": url, "commitOid": sha, "success": True})
