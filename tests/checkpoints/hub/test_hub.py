"""References, lists and downloads against a real HTTP server that speaks the Hub's API."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.hub import cache as hub_cache
from pa_lite.checkpoints.hub.checkpoints import fetch_checkpoint, fetch_checkpoints
from pa_lite.checkpoints.hub.http import file_facts
from pa_lite.checkpoints.hub.ranges import RemoteFile
from pa_lite.checkpoints.hub.references import HubReference, endpoint, parse_hub
from pa_lite.checkpoints.hub.repositories import HubFile, fetch_file, list_files, listing
from pa_lite.errors import CheckpointError, HubError, InputError, OutputError
from pa_lite.system.markers import INCOMPLETE
from tests.support.hub_server import STRANGER, TOKEN, HubServer
from tests.support.reports import Reports

NOISE = bytes(range(256)) * 40_000  # 10 MB: longer than what sockets buffer


def cache() -> Path:
    return Path(os.environ["HF_HUB_CACHE"])


def partial_files() -> list[str]:
    return [p.name for p in cache().rglob("*.incomplete")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hub:org/name", HubReference(repo="org/name")),
        ("hub:org/na.me-1_x@v1.0", HubReference(repo="org/na.me-1_x", revision="v1.0")),
        ("hub:org/name@refs/pr/3", HubReference(repo="org/name", revision="refs/pr/3")),
        ("hub:o/n/sub/m-Q8_0.gguf@main", HubReference(repo="o/n", revision="main", file="sub/m-Q8_0.gguf")),
    ],
)
def test_references_are_parsed(text: str, expected: HubReference) -> None:
    assert parse_hub(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    ["hub:", "hub:name", "hub:org/", "hub:org/name@", "hub:org/../x", "hub:org/a b", "org/name",
     "hub:../name", "hub:org/name@a b", "hub:org/a--b", "hub:org/n/../../x.gguf", "hub:örg/name"],
)  # fmt: skip
def test_bad_references_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write hub:org/name"):
        parse_hub(text)


def test_files_in_folders_are_listed(hub: HubServer) -> None:
    """More entries than a page of the API's answer holds."""
    files = {f"data/part-{i:03d}.parquet": b"x" * i for i in range(120)} | {"README.md": b"hello"}
    repo = hub.add("org/d", files, kind="dataset")
    found = list_files("org/d", repo_type="dataset")
    assert [f.name for f in found] == sorted([*files, ".gitattributes"])
    assert {f.name: f.size for f in found}["data/part-119.parquet"] == 119
    assert found[-1].sha256 is not None
    assert HubFile("README.md", 5) in found
    assert listing(HubReference(repo="org/d", repo_type="dataset")).commit == repo.refs["main"]


def test_a_file_is_fetched_once_checked_and_shared_with_huggingface_hub(hub: HubServer) -> None:
    from huggingface_hub import hf_hub_download

    repo = hub.add("org/d", {"x/a.parquet": NOISE, "b.json": b"{}"}, kind="dataset")
    told = Reports()
    path = fetch_file("org/d", "x/a.parquet", repo_type="dataset", progress=told)
    assert path.read_bytes() == NOISE
    assert told[-1] == ("download", len(NOISE), len(NOISE), "B")
    assert told == sorted(told)
    assert fetch_file("org/d", "x/a.parquet", repo_type="dataset") == path
    assert fetch_file("org/d", "b.json", repo_type="dataset", revision=repo.refs["main"]).read_bytes() == b"{}"
    assert len(hub.asked("GET storage")) == 1
    theirs = hf_hub_download(
        "org/d", "x/a.parquet", repo_type="dataset", endpoint=hub.endpoint, cache_dir=cache(), revision="main"
    )
    assert Path(theirs) == path
    assert len(hub.asked("GET storage")) == 1


def test_a_branch_that_moves_is_followed_and_a_commit_is_not(hub: HubServer) -> None:
    repo = hub.add("org/m", {"config.json": b"1"})
    first = repo.refs["main"]
    assert fetch_file("org/m", "config.json").read_bytes() == b"1"
    repo.commit({"config.json": b"2"})
    assert fetch_file("org/m", "config.json").read_bytes() == b"2"
    hub.requests.clear()
    assert fetch_file("org/m", "config.json", revision=first).read_bytes() == b"1"
    assert hub.requests == []


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "drop"},
        {"kind": "cut", "after": 100_000},
        {"kind": "short", "after": 100_000},
        {"kind": "status", "status": 503},
        {"kind": "status", "status": 429, "retry_after": "1"},
    ],
    ids=lambda f: f["kind"] + str(f.get("status", "")),
)
def test_transient_faults_are_retried(hub: HubServer, fault: dict[str, object]) -> None:
    hub.add("org/m", {"a.gguf": NOISE})
    hub.fail(**fault)  # type: ignore[arg-type]
    assert fetch_file("org/m", "a.gguf").read_bytes() == NOISE
    assert len(hub.asked("GET storage")) == 2
    if fault["kind"] in ("cut", "short"):  # resumed where it ended
        assert hub.asked("GET storage")[1].headers["Range"] == f"bytes=100000-{len(NOISE) - 1}"


def test_faults_of_the_api_are_retried(hub: HubServer, impatient: None) -> None:
    hub.add("org/m", {"a.gguf": b"x"})
    hub.fail("status", "api", status=502, times=2)
    hub.fail("drop", "HEAD hub", times=1)
    assert listing(parse_hub("hub:org/m")).commit
    assert fetch_file("org/m", "a.gguf").read_bytes() == b"x"


def test_an_unfinished_download_is_resumed(hub: HubServer, impatient: None) -> None:
    hub.add("org/m", {"a.gguf": NOISE})
    hub.fail("cut", after=3_000_000)
    hub.fail("status", times=100, status=503)
    with pytest.raises(HubError, match=r"hub:org/m@\w{8}: the Hub is not working at the moment \(HTTP 503\)"):
        fetch_file("org/m", "a.gguf")
    assert len(partial_files()) == 1
    hub.faults.clear()
    hub.requests.clear()
    assert fetch_file("org/m", "a.gguf").read_bytes() == NOISE
    (request,) = hub.asked("GET storage")
    assert request.headers["Range"].startswith("bytes=3000000-")
    assert partial_files() == []


@pytest.mark.parametrize("content", [NOISE, b"small"], ids=["large", "small"])
@pytest.mark.parametrize("name", ["a.gguf", "a.json"], ids=["sha256", "git"])
def test_a_damaged_download_is_refused_and_removed(hub: HubServer, name: str, content: bytes) -> None:
    hub.add("org/m", {name: content})
    hub.fail("content", f"GET (storage|hub.*{name})")
    with pytest.raises(HubError, match="arrived damaged: its hash is not"):
        fetch_file("org/m", name)
    assert not any(p.is_file() for p in cache().rglob("*") if {"blobs", "snapshots"} & set(p.parts))
    assert fetch_file("org/m", name).read_bytes() == content


@pytest.mark.parametrize(("kind", "told"), [("etag", "its ETag is"), ("size", "it has 10240004 bytes instead of 1024")])
def test_a_file_that_changes_during_the_download_is_an_error(hub: HubServer, kind: str, told: str) -> None:
    hub.add("org/m", {"a.gguf": NOISE})
    hub.fail("cut", after=3_000_000)
    hub.fail(kind)
    with pytest.raises(HubError, match=f"a.gguf changed while being read: {told}.* start again"):
        fetch_file("org/m", "a.gguf")


def test_expired_links_are_renewed(hub: HubServer) -> None:
    hub.add("org/m", {"a.gguf": NOISE})
    reference = HubReference(repo="org/m", file="a.gguf")
    content = RemoteFile(reference, file_facts(reference))
    hub.expire_links()
    assert b"".join(content.pieces(5, 100)) == NOISE[5:100]
    assert len(hub.asked("HEAD hub")) == 2


def test_a_compressed_response_is_refused(hub: HubServer) -> None:
    hub.add("org/m", {"a.gguf": NOISE})
    hub.fail("gzip")
    with pytest.raises(HubError, match=r"a.gguf was sent compressed, which was not requested"):
        fetch_file("org/m", "a.gguf")


def test_a_renamed_repository_is_followed(hub: HubServer) -> None:
    hub.add("org/m", {"a.json": b"{}", "a.gguf": NOISE})
    for name, content in (("a.json", b"{}"), ("a.gguf", NOISE)):
        hub.fail("redirect", "(HEAD|GET) hub.*org/old", body=f"/org/m/resolve/main/{name}".encode(), times=9)
        assert fetch_file("org/old", name).read_bytes() == content
        hub.faults.clear()


def test_a_redirect_to_another_host_gets_no_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.add("org/m", {"a.json": b"{}"})
    hub.fail("redirect", "(HEAD|GET) hub.*resolve", body=f"{hub.storage}/org/m/resolve/main/a.json".encode(), times=9)
    with pytest.raises(HubError, match="has no commit, ETag or size"):
        fetch_file("org/m", "a.json")
    assert not any("authorization" in {k.lower() for k in r.headers} for r in hub.asked("storage"))


def test_links_that_never_work_are_an_error(hub: HubServer) -> None:
    hub.add("org/m", {"a.gguf": NOISE})
    hub.fail("status", status=403, times=100)
    with pytest.raises(HubError, match="access is forbidden"):
        fetch_file("org/m", "a.gguf")
    assert len(hub.asked("GET storage")) < 4


@pytest.mark.parametrize("status", [403, 418])
def test_an_endless_error_response_is_not_read_to_the_end(hub: HubServer, status: int) -> None:
    hub.add("org/m", {"a.gguf": NOISE})
    hub.fail("endless", status=status, times=100)
    started = time.monotonic()
    with pytest.raises(HubError, match=f"access is forbidden|HTTP {status}"):
        fetch_file("org/m", "a.gguf")
    assert time.monotonic() - started < 20


def test_a_server_that_sends_single_bytes_is_an_error(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pa_lite.checkpoints.hub.ranges._SLOW_SECONDS", 0.5)
    hub.add("org/m", {"a.gguf": NOISE})
    hub.fail("drip", times=100)
    started = time.monotonic()
    with pytest.raises(HubError, match=r"a\.gguf is too slow: \d+ bytes in \d s") as error:
        fetch_file("org/m", "a.gguf")
    assert error.value.is_passing
    assert time.monotonic() - started < 20
    hub.faults.clear()
    assert fetch_file("org/m", "a.gguf").read_bytes() == NOISE


def test_a_range_with_endless_digits_is_refused(hub: HubServer) -> None:
    hub.add("org/m", {"a.gguf": NOISE})
    hub.fail("digits", times=100)
    with pytest.raises(HubError, match=r"the answer is not the requested part of a\.gguf"):
        fetch_file("org/m", "a.gguf")


def test_an_endless_file_list_is_an_error(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pa_lite.checkpoints.hub.repositories._MOST_ENTRIES", 60)
    hub.add("org/few", {f"{i}.json": b"{}" for i in range(59)})
    hub.add("org/many", {f"{i}.json": b"{}" for i in range(60)})
    assert len(list_files("org/few")) == 60  # with .gitattributes
    with pytest.raises(HubError, match=r"http.* does not answer like a Hub \(a list of more than 60 files\)"):
        list_files("org/many")


@pytest.mark.parametrize(
    ("repo", "revision"),
    [("../x", None), ("a/b/c", None), ("a/b", "../../x"), ("a/b", "/etc"), ("a/b", "x?y"), ("", None)],
)
def test_invalid_names_are_refused(hub: HubServer, repo: str, revision: str | None) -> None:
    with pytest.raises(InputError, match="is not a valid"):
        fetch_file(repo, "x.json", revision=revision)
    assert hub.requests == []


def test_a_server_without_range_requests_is_reported(hub: HubServer) -> None:
    hub.add("org/m", {"a.gguf": NOISE})
    reference = HubReference(repo="org/m", file="a.gguf")
    content = RemoteFile(reference, file_facts(reference))
    hub.fail("whole", times=2)
    assert b"".join(content.pieces(0, 10)) == NOISE[:10]  # and not all of it is read for ten bytes
    with pytest.raises(HubError, match="does not support range requests"):
        list(content.pieces(5, 10))


def test_gated_repositories_say_how_to_get_access(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/m", {"a.gguf": b"x"}, gated=True)
    told = rf"hub:org/m: is gated. Accept its licence at {hub.endpoint}/org/m, then log in .*HF_TOKEN"
    with pytest.raises(HubError, match=told):
        fetch_file("org/m", "a.gguf")
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(HubError, match=told):
        fetch_file("org/m", "a.gguf")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch_file("org/m", "a.gguf").read_bytes() == b"x"
    # the token is the Hub's own
    assert all("authorization" in {k.lower() for k in r.headers} for r in hub.requests[-2:-1])
    assert not any("authorization" in {k.lower() for k in r.headers} for r in hub.asked("storage"))


def test_missing_repositories_revisions_and_files_are_named(hub: HubServer) -> None:
    hub.add("org/m", {"a.gguf": b"x"})
    with pytest.raises(HubError, match="hub:org/none: this model does not exist or is private"):
        listing(parse_hub("hub:org/none"))
    with pytest.raises(HubError, match="hub:org/m@v9: this revision does not exist"):
        listing(parse_hub("hub:org/m@v9"))
    with pytest.raises(HubError, match=r"hub:org/m: has no file b.gguf"):
        fetch_file("org/m", "b.gguf")
    with pytest.raises(HubError, match="dataset org/none: this dataset does not exist"):
        list_files("org/none", repo_type="dataset")
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        fetch_file("org/m", "../../b.gguf")


def test_too_many_requests_say_what_to_do(hub: HubServer, impatient: None) -> None:
    hub.add("org/m", {"a.gguf": b"x"})
    hub.fail("status", "HEAD hub", status=429, times=100)
    with pytest.raises(HubError, match=r"too many requests. Wait some minutes, or log in"):
        fetch_file("org/m", "a.gguf")
    assert len(hub.asked("HEAD")) == 4
    hub.faults.clear()
    hub.requests.clear()
    hub.fail("status", "HEAD hub", status=429, times=100, retry_after="3600")
    with pytest.raises(HubError, match="too many requests"):
        fetch_file("org/m", "a.gguf")
    assert len(hub.asked("HEAD")) == 1  # an hour is not waited for


def test_offline_uses_only_the_cache(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = hub.add("org/m", {"config.json": b"{}", "b.json": b"{}"})
    path = fetch_file("org/m", "config.json")
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch_file("org/m", "config.json") == path
    assert listing(parse_hub("hub:org/m")).commit == repo.refs["main"]
    assert [f.name for f in list_files("org/m")] == ["config.json"]
    with pytest.raises(HubError, match=r"b.json is not in the cache, and HF_HUB_OFFLINE is set"):
        fetch_file("org/m", "b.json")
    with pytest.raises(HubError, match=r"hub:org/x: is not in the cache \(.*\), and HF_HUB_OFFLINE is set"):
        fetch_checkpoint(parse_hub("hub:org/x"))
    assert hub.requests == []


def test_without_network_the_cache_is_used(
    hub: HubServer, impatient: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add("org/m", {"config.json": b"{}"})
    path = fetch_file("org/m", "config.json")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the port of discard, closed
    with pytest.raises(HubError, match=r"http://127.0.0.1:9 cannot be reached \(.*\). Check the network"):
        listing(parse_hub("hub:org/other"))
    assert fetch_file("org/m", "config.json") == path
    assert "Using the copy in the cache" in caplog.text


@pytest.mark.parametrize("text", ["huggingface.co", "ftp://huggingface.co", "http://", "http://h:0", "http://h:x"])
def test_bad_endpoints_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", text)
    with pytest.raises(InputError, match=r"HF_ENDPOINT is .*, not an address"):
        endpoint()


def test_a_server_that_is_not_a_hub_is_reported(hub: HubServer) -> None:
    hub.add("org/m", {"config.json": b"{}"})
    hub.fail("status", "GET hub", status=200, times=2)
    with pytest.raises(HubError, match=r"hub:org/m: http.* does not answer like a Hub \(.*\). Check HF_ENDPOINT"):
        listing(parse_hub("hub:org/m"))
    with pytest.raises(HubError, match="does not answer like a Hub"):
        list_files("org/m")
    for entry in ({"path": 5}, {"path": "a", "size": None}, {"path": "a", "size": 1.5}, {"path": "a", "size": -1}):
        body = json.dumps([{"type": "file", "oid": "0" * 40, "size": 1, **entry}]).encode()
        hub.fail("status", "/tree/", status=200, body=body)
        with pytest.raises(HubError, match="does not answer like a Hub"):
            list_files("org/m")
    hub.fail("status", "HEAD hub", status=200)
    with pytest.raises(HubError, match=r"has no commit, ETag or size: http.* is not a Hub"):
        fetch_file("org/m", "config.json")
    hub.fail("status", "HEAD hub", status=418)
    with pytest.raises(HubError, match=r"hub:org/m: the Hub refused the request \(HTTP 418\)"):
        fetch_file("org/m", "config.json")


def test_only_the_needed_files_of_a_checkpoint_are_downloaded(hub: HubServer, tiny_pair: tuple[Path, Path]) -> None:
    base, instruct = tiny_pair
    files = {p.name: p.read_bytes() for p in base.iterdir()}
    strange = {
        "consolidated.safetensors": b"x", "pytorch_model.bin": b"x", "modeling_x.py": b"x", "README.md": b"x",
        "original/params.json": b"{}", "model-extra.safetensors": b"x", "chat_template.jinja": b"{{ x }}",
        "tokenizer.model": b"x",
    }  # fmt: skip
    hub.add("org/base", files | strange)
    hub.add("org/instruct", instruct)
    reports = Reports()
    folder, other = fetch_checkpoints([parse_hub("hub:org/base"), parse_hub("hub:org/instruct")], reports)
    assert {p.name for p in folder.iterdir()} == files.keys() | {
        "chat_template.jinja", "tokenizer.model", "README.md",
    }  # fmt: skip
    assert all((folder / name).read_bytes() == content for name, content in files.items())
    assert (other / "model.safetensors").read_bytes() == (instruct / "model.safetensors").read_bytes()
    assert all(phase == "download" and unit == "B" for phase, _, _, unit in reports)
    _, done, total, _ = reports[-1]
    assert done == total == sum(p.stat().st_size for p in (*folder.iterdir(), *other.iterdir()))
    opened = open_checkpoint("hub:org/base")
    assert opened.name == "base"
    assert opened.tensors.keys() == open_checkpoint(base).tensors.keys()


def test_repositories_without_weights_are_refused(hub: HubServer) -> None:
    hub.add("org/empty", {"config.json": b"{}"})
    hub.add("org/pickles", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    hub.add("org/many", {"a-Q8_0.gguf": b"x", "a-Q4_0.gguf": b"x"})
    with pytest.raises(CheckpointError, match="hub:org/empty: has neither"):
        fetch_checkpoint(parse_hub("hub:org/empty"))
    with pytest.raises(CheckpointError, match=r"its weights are pickles \(pytorch_model.bin\), which can run code"):
        fetch_checkpoint(parse_hub("hub:org/pickles"))
    with pytest.raises(InputError, match=r"has 2 GGUF models. Choose hub:org/many/FILE: a-Q4_0.gguf, a-Q8_0.gg"):
        fetch_checkpoint(parse_hub("hub:org/many"))
    assert fetch_checkpoint(parse_hub("hub:org/many/a-Q8_0.gguf")).name == "a-Q8_0.gguf"
    with pytest.raises(HubError, match=r"has no file b.gguf"):
        fetch_checkpoint(parse_hub("hub:org/many/b.gguf"))


def test_offline_a_missing_shard_is_named(
    hub: HubServer, tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("org/base", tiny_pair[0])
    for name in ("config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"):
        fetch_file("org/base", name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match=r"model-00002-of-00002.safetensors not in the cache .*Go online"):
        open_checkpoint("hub:org/base")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    folder = fetch_checkpoint(parse_hub("hub:org/base"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch_checkpoint(parse_hub("hub:org/base")) == folder
    assert open_checkpoint("hub:org/base", stream=True).tensors


def test_file_names_cannot_leave_the_cache(hub: HubServer) -> None:
    hub.add("org/m", {"../../../evil.json": b"{}", "model.safetensors": b"x"})
    with pytest.raises(CheckpointError, match="cannot be downloaded"):
        fetch_checkpoint(parse_hub("hub:org/m"))


@pytest.mark.parametrize("name", ["a\\b.json", "C:x.json", "/etc/x.json", "a/../b.json"])
def test_file_names_that_leave_the_folder_are_refused(hub: HubServer, name: str) -> None:
    hub.add("org/m", {name: b"{}", "model.safetensors": b"x"})
    with pytest.raises(CheckpointError, match="cannot be downloaded: its name leads out of its folder"):
        fetch_checkpoint(parse_hub("hub:org/m"))


def test_names_invalid_on_some_systems_are_ignored(hub: HubServer) -> None:
    odd = ["aux.json", "a?.json", "b.json ", "x" * 300 + ".json", "c\u202e.json"]
    hub.add("org/m", {**dict.fromkeys(odd, b"{}"), "config.json": b"{}", "model.safetensors": b"x"})
    folder = fetch_checkpoint(parse_hub("hub:org/m"))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(CheckpointError, match="its name is a device on Windows"):
        fetch_file("org/m", "aux.json")


def test_files_that_differ_only_by_case_are_refused(hub: HubServer) -> None:
    hub.add("org/m", {"config.json": b"{}", "Config.json": b"[]", "model.safetensors": b"x"})
    with pytest.raises(CheckpointError, match=r"has the files Config.json and config.json, one file on some"):
        fetch_checkpoint(parse_hub("hub:org/m"))


def test_a_full_disk_is_reported_before_any_download(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/m", {"model.safetensors": NOISE})
    usage = shutil.disk_usage(cache())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5_000_000))
    with pytest.raises(OutputError, match=r"0.0 GB to download.*HF_HUB_CACHE .* \(--stream\)"):
        fetch_checkpoint(parse_hub("hub:org/m"))
    assert hub.asked("storage") == []


def test_the_cache_folder_is_huggingface_hubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert hub_cache.cache_folder() == Path.home() / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hub_cache.cache_folder() == tmp_path / "huggingface" / "hub"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert hub_cache.cache_folder() == tmp_path / "home" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "x"))
    assert hub_cache.cache_folder() == tmp_path / "x"


@pytest.mark.parametrize(
    "address",
    [b"http://storage.invalid/\x7f", b"http://[", b"http://\xef\xbb\xbf{}x/a", b"http://a:99999/"],
)
def test_a_redirect_to_an_invalid_address_is_an_error(hub: HubServer, address: bytes) -> None:
    hub.add("org/m", {"config.json": b"{}"})
    hub.fail("astray", "HEAD hub", body=address, times=9)
    with pytest.raises(HubError, match=r"does not answer like a Hub \(.*\)\. Check HF_ENDPOINT"):
        file_facts(HubReference(repo="org/m", file="config.json"))


def test_a_full_disk_during_a_download_keeps_the_part(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/m", {"model.safetensors": NOISE})

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"the disk is full .*; what was downloaded is kept\. Free some space"):
            fetch_file("org/m", "model.safetensors")
    (kept,) = hub_cache.cache_folder().rglob("*.incomplete")
    assert kept.stat().st_size == len(NOISE)
    assert fetch_file("org/m", "model.safetensors").read_bytes() == NOISE
    assert partial_files() == []


def test_refs_are_written_completely_or_not_at_all(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = hub_cache.RepoCache("org/m")
    cache.remember("main", "a" * 40)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    cache.remember("main", "b" * 40)  # a cache that cannot be written stays as it is
    assert cache.commit_of("main") == "a" * 40
    assert [p.name for p in (cache.folder / "refs").iterdir()] == ["main"]


@pytest.mark.parametrize("content", [NOISE, b"small"], ids=["large", "small"])
@pytest.mark.parametrize("hard", [True, False])
def test_the_cache_works_without_links(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, content: bytes, hard: bool
) -> None:
    repo = hub.add("org/m", {"model.safetensors": content})

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refuse)
    if not hard:
        monkeypatch.setattr(os, "link", refuse)
    first = fetch_file("org/m", "model.safetensors")
    repo.commit({"model.safetensors": content, "more.json": b"{}"})
    second = fetch_file("org/m", "model.safetensors")
    assert first != second
    for fetched in (first, second):
        assert (fetched.is_symlink(), fetched.read_bytes()) == (False, content)
    assert partial_files() == []


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
@pytest.mark.parametrize("ending", [INCOMPLETE, f"{INCOMPLETE}.own"])
@pytest.mark.parametrize("kind", ["link", "hard link", "folder", "named pipe", "file"])
def test_foreign_files_at_download_names_are_kept(hub: HubServer, tmp_path: Path, kind: str, ending: str) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    hub.add("org/m", {"model.safetensors": NOISE})
    blobs = hub_cache.RepoCache("org/m").folder / "blobs"
    blobs.mkdir(parents=True)
    path = blobs / f"{hashlib.sha256(NOISE).hexdigest()}{ending}"
    make: dict[str, Callable[[], object]] = {
        "link": lambda: path.symlink_to(outside), "hard link": lambda: os.link(outside, path), "folder": path.mkdir,
        "named pipe": lambda: os.mkfifo(path), "file": lambda: path.write_bytes(b"mine"),
    }  # fmt: skip
    make[kind]()
    facts = path.lstat()
    with pytest.raises(OutputError, match=r"is in the way of a download: it (is|has no)"):
        fetch_file("org/m", "model.safetensors")
    assert path.lstat().st_ino == facts.st_ino
    assert outside.read_bytes() == b"mine"
    assert kind not in ("file", "hard link") or path.read_bytes() == b"mine"


def test_unfinished_downloads_of_0_1_0_are_resumed(hub: HubServer) -> None:
    """It has no marker: its bytes prove it."""
    hub.add("org/m", {"model.safetensors": NOISE})
    blobs = hub_cache.RepoCache("org/m").folder / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{hashlib.sha256(NOISE).hexdigest()}{INCOMPLETE}").write_bytes(NOISE[:100_000])
    assert fetch_file("org/m", "model.safetensors").read_bytes() == NOISE
    ranges = [value for r in hub.requests for key, value in r.headers.items() if key.lower() == "range"]
    assert f"bytes=100000-{len(NOISE) - 1}" in ranges
    assert [p.name for p in blobs.iterdir()] == [hashlib.sha256(NOISE).hexdigest()]


@pytest.mark.skipif(os.name != "posix", reason="links and pipes of POSIX")
@pytest.mark.parametrize("kind", ["link", "named pipe"])
def test_a_lock_that_is_not_a_regular_file_is_refused_at_once(hub: HubServer, tmp_path: Path, kind: str) -> None:
    hub.add("org/m", {"model.safetensors": b"small"})
    lock = hub_cache.cache_folder() / ".locks" / "models--org--m" / f"{hashlib.sha256(b'small').hexdigest()}.lock"
    lock.parent.mkdir(parents=True)
    lock.symlink_to(tmp_path / "made") if kind == "link" else os.mkfifo(lock)
    with pytest.raises(OutputError, match=f"is a {kind}, not a regular file"):
        fetch_file("org/m", "model.safetensors")
    assert not (tmp_path / "made").exists()
