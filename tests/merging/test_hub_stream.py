"""Merges streamed from a Hub on loopback give the same bytes as from the disk, or an error and no output."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import pa_lite
from pa_lite.checkpoints import open_checkpoint
from pa_lite.checkpoints.fingerprint import fingerprint
from pa_lite.errors import CheckpointError, HubError, MismatchError
from pa_lite.merging.diff import diff_checkpoints
from pa_lite.merging.plan import PlanOptions
from pa_lite.merging.write import MergeOptions
from tests.support import families, tiny
from tests.support.ggufs import without_repositories
from tests.support.hub_server import TOKEN, HubServer, Request

HUB = ("hub:org/Tiny", "hub:org/Tiny-Instruct")
STREAM = MergeOptions(stream=True, threads=2)
# requests for weights, which are one for each tensor of the tiny pair
READS = "GET storage"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_pair: tuple[Path, Path]) -> tuple[Path, Path]:
    """The tiny pair in folders that have the names of its repositories."""
    folder = tmp_path_factory.mktemp("disk")
    base, instruct = (shutil.copytree(p, folder / n) for p, n in zip(tiny_pair, ("Tiny", "Tiny-Instruct"), strict=True))
    return base, instruct


@pytest.fixture
def published(hub: HubServer, folders: tuple[Path, Path]) -> HubServer:
    for folder in folders:
        hub.add(f"org/{folder.name}", folder)
    return hub


@pytest.fixture(scope="module")
def from_disk(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return pa_lite.merge(*folders, (0.7,), output=tmp_path_factory.mktemp("out"))[0].read_bytes()


def stream(output: Path, lam: float = 0.7, options: MergeOptions = STREAM, kind: str = "Q8_0") -> bytes:
    (path,) = pa_lite.merge(*HUB, (lam,), plan=PlanOptions(type=kind), output=output, options=options)
    return without_repositories(path)


def weights_in_cache() -> list[str]:
    return [p.name for p in Path(os.environ["HF_HUB_CACHE"]).rglob("*.safetensors")]


def test_streamed_and_downloaded_and_local_merges_are_equal(
    published: HubServer, from_disk: bytes, tmp_path: Path
) -> None:
    assert stream(tmp_path) == from_disk
    assert weights_in_cache() == []
    (tmp_path / "fetched").mkdir()
    assert without_repositories(pa_lite.merge(*HUB, (0.7,), output=tmp_path / "fetched")[0]) == from_disk
    assert len(weights_in_cache()) == 3
    assert not any("authorization" in {k.lower() for k in r.headers} for r in published.asked("storage"))


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_a_side_that_is_not_needed_is_not_read(
    published: HubServer, folders: tuple[Path, Path], tmp_path: Path, lam: float
) -> None:
    assert open_checkpoint(HUB[0], stream=True)  # the small files are fetched
    published.requests.clear()
    streamed = stream(tmp_path, lam)
    assert streamed == pa_lite.merge(*folders, (lam,), output=tmp_path / "disk.gguf")[0].read_bytes()
    needed, spared = HUB if lam == 0 else HUB[::-1]
    assert tensor_reads(published, needed)
    assert not tensor_reads(published, spared)


def asked_range(request: Request) -> tuple[int, int]:
    """Return the first byte and the number of bytes of a request."""
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"])
    assert found is not None
    return int(found[1]), int(found[2]) - int(found[1]) + 1


def tensor_reads(hub: HubServer, reference: str) -> list[Request]:
    """Return the requests for weights: neither a header, at the file's start, nor a fingerprint sample of 4 KiB."""
    repo = hub.repos["model", reference.removeprefix("hub:")]
    files = repo.commits[repo.refs["main"]].values()
    tags = {hashlib.sha256(content).hexdigest() for content in files}
    return [r for r in hub.asked(READS) if r.path[1:] in tags and asked_range(r)[0] and asked_range(r)[1] != 4096]


def test_temporary_faults_do_not_change_the_bytes(
    published: HubServer, from_disk: bytes, tmp_path: Path, impatient: None
) -> None:
    """Every kind of fault, repeatedly, on both hosts."""
    for i in range(12):
        published.fail("drop", READS, skip=7 * i)
        published.fail("cut", READS, skip=5 * i + 1, after=700 * i)
        published.fail("short", READS, skip=6 * i + 2, after=900 * i + 1)
        published.fail("status", READS, skip=9 * i, status=(429, 503, 500)[i % 3])
        published.fail("drop", "HEAD hub", skip=i)
    published.fail("status", READS, skip=60, status=429, retry_after="1")
    assert stream(tmp_path) == from_disk
    assert sum(fault.times for fault in published.faults) < 10  # most have occurred


def test_links_that_expire_during_a_merge_are_renewed(published: HubServer, from_disk: bytes, tmp_path: Path) -> None:
    timer = threading.Timer(0.0, lambda: None)

    def expire(_phase: str, _done: int, _total: int, _unit: str) -> None:
        if timer.finished.is_set():
            return
        timer.finished.set()
        published.expire_links()

    published.signature = 5
    merged = pa_lite.merge(*HUB, (0.7,), output=tmp_path, options=STREAM, progress=expire)
    assert without_repositories(merged[0]) == from_disk


@pytest.mark.parametrize("kind", ["etag", "size"])
@pytest.mark.parametrize("skip", [3, 40, 200])
def test_a_file_that_changes_during_a_merge_is_an_error(
    published: HubServer, tmp_path: Path, kind: str, skip: int
) -> None:
    published.fail(kind, READS, skip=skip, times=1000)
    with pytest.raises(
        HubError, match=r"Tiny.*safetensors changed while being read: .*No output was written; start again"
    ):
        stream(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_new_commit_during_a_merge_does_not_change_the_output(
    published: HubServer, from_disk: bytes, tmp_path: Path
) -> None:
    def move(_phase: str, _done: int, _total: int, _unit: str) -> None:
        published.repos["model", "org/Tiny"].commit({"model.safetensors": b"other"})

    merged = pa_lite.merge(*HUB, (0.7,), output=tmp_path, options=STREAM, progress=move)
    assert without_repositories(merged[0]) == from_disk


def test_a_gated_repository_needs_a_token(
    published: HubServer, from_disk: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published.repos["model", "org/Tiny"].is_gated = True
    with pytest.raises(
        HubError, match=r"hub:org/Tiny@.*: is gated. Accept its licence at http.*/org/Tiny, then log in"
    ):
        stream(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert stream(tmp_path) == from_disk
    assert not any("authorization" in {k.lower() for k in r.headers} for r in published.asked("storage"))


def test_a_lasting_fault_is_an_error(published: HubServer, tmp_path: Path, impatient: None) -> None:
    published.fail("status", READS, skip=220, times=10_000)
    with pytest.raises(HubError, match=r"the Hub is not working at the moment \(HTTP 503\)"):
        stream(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_resume_continues_a_streamed_merge(
    published: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second merge requests only tensors that the first did not complete, and gives the same bytes."""
    from pa_lite.checkpoints.hub import http

    options = MergeOptions(stream=True, threads=1, resume=True)
    (tmp_path / "complete").mkdir()
    expected = stream(tmp_path / "complete", options=options, kind="F16")
    reads = len(tensor_reads(published, HUB[1]))
    monkeypatch.setattr(http, "_FIRST_WAIT", 0.02)
    published.fail("status", READS, skip=len(published.asked(READS)) - 8, times=10_000)
    with pytest.raises(HubError):
        stream(tmp_path, options=options, kind="F16")
    assert sorted(p.suffix for p in tmp_path.glob(".*")) == [".done", ".part"]
    published.faults.clear()
    published.requests.clear()
    assert stream(tmp_path, options=options, kind="F16") == expected
    assert 0 < len(tensor_reads(published, HUB[1])) < reads


def test_gguf_checkpoints_stream_too(hub: HubServer, tiny_ggufs: dict[str, Path], tmp_path: Path) -> None:
    base, instruct = tiny_ggufs["F16"], tiny_ggufs["Q8_0"]
    hub.add("org/a", {"a.gguf": base.read_bytes()})
    hub.add("org/b", {"b-Q8_0.gguf": instruct.read_bytes(), "b-F32.gguf": b"GGUF"})
    (tmp_path / "a.gguf").symlink_to(base)
    (tmp_path / "b-Q8_0.gguf").symlink_to(instruct)
    (local,) = pa_lite.merge(tmp_path / "a.gguf", tmp_path / "b-Q8_0.gguf", (0.3,), output=tmp_path / "local.gguf")
    (streamed,) = pa_lite.merge(
        "hub:org/a", "hub:org/b/b-Q8_0.gguf", (0.3,), output=tmp_path / "streamed.gguf", options=STREAM
    )
    assert without_repositories(streamed) == local.read_bytes()


def test_experts_in_pieces_stream_too(hub: HubServer, tmp_path: Path) -> None:
    """A tensor of stacked experts is read from several offsets of a file."""
    for name, seed in (("a", 1), ("b", 2)):
        hub.add(f"org/{name}", families.write_checkpoint(tmp_path / name, "MixtralForCausalLM", seed)[0])
    assert max(len(t.pieces) for t in open_checkpoint(tmp_path / "a").tensors.values()) > 1
    (local,) = pa_lite.merge(tmp_path / "a", tmp_path / "b", (0.3,), output=tmp_path / "local.gguf")
    (streamed,) = pa_lite.merge("hub:org/a", "hub:org/b", (0.3,), output=tmp_path / "streamed.gguf", options=STREAM)
    assert without_repositories(streamed) == local.read_bytes()


def test_one_side_streams_and_the_other_is_local(
    published: HubServer, folders: tuple[Path, Path], from_disk: bytes, tmp_path: Path
) -> None:
    (merged,) = pa_lite.merge(folders[0], HUB[1], (0.7,), output=tmp_path, options=STREAM)
    assert without_repositories(merged) == from_disk
    distance = diff_checkpoints(folders[0], HUB[1], threads=1, stream=True)
    assert distance.total == diff_checkpoints(*folders, threads=1).total


def test_fingerprints_of_streamed_and_local_checkpoints_are_equal(
    published: HubServer, folders: tuple[Path, Path]
) -> None:
    for reference, folder in zip(HUB, folders, strict=True):
        assert fingerprint(open_checkpoint(reference, stream=True)) == fingerprint(open_checkpoint(folder))


def test_a_broken_header_is_reported(hub: HubServer, folders: tuple[Path, Path], tmp_path: Path) -> None:
    files = {p.name: p.read_bytes() for p in folders[1].iterdir()}
    hub.add("org/cut", {**files, "model.safetensors": files["model.safetensors"][:-100]})
    hub.add("org/none", {**files, "model.safetensors": b"\xff" * 64})
    with pytest.raises(CheckpointError, match=r"hub:org/cut@.*/model.safetensors: the header describes \d+ bytes"):
        open_checkpoint("hub:org/cut", stream=True)
    with pytest.raises(CheckpointError, match=r"model.safetensors: is not a safetensors file"):
        open_checkpoint("hub:org/none", stream=True)


def test_a_mismatch_writes_no_output(published: HubServer, tmp_path: Path) -> None:
    config = {**tiny.CONFIG, "intermediate_size": 128}
    published.add("org/Other", tiny.write_checkpoint(tmp_path / "other", tiny.weights(3, config), config=config))
    with pytest.raises(MismatchError):
        pa_lite.merge(HUB[0], "hub:org/Other", (0.7,), output=tmp_path / "x.gguf", options=STREAM)
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="getrusage does not give the peak of only this process")
def test_memory_stays_within_the_bound(hub: HubServer, tmp_path: Path) -> None:
    """140 MB of weights stream through a process that is allowed less memory than that."""
    config = {**tiny.CONFIG, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
    weights = tiny.weights(1, config)
    for name in ("Tiny", "Tiny-Instruct"):
        hub.add(f"org/{name}", tiny.write_checkpoint(tmp_path / name, weights, config=config))
    code = (
        "import sys, pa_lite, re\n"
        "from pa_lite.merging.write import MergeOptions\n"
        "options = MergeOptions(stream=True, threads=2, max_memory=int(sys.argv[2]))\n"
        f"pa_lite.merge(*{HUB}, (0.5,), output=sys.argv[1], options=options)\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    bound = 120_000_000
    words = [sys.executable, "-c", code, str(tmp_path / "streamed.gguf"), str(bound)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert 1024 * int(done.stdout) <= bound
    (local,) = pa_lite.merge(tmp_path / "Tiny", tmp_path / "Tiny-Instruct", (0.5,), output=tmp_path / "local.gguf")
    assert without_repositories(tmp_path / "streamed.gguf") == local.read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to another process")
def test_ctrl_c_while_waiting_for_the_hub_ends_at_once(published: HubServer, tmp_path: Path) -> None:
    import signal

    published.fail("status", READS, skip=210, times=10_000, status=429, retry_after="200")
    code = (
        "import signal, sys, pa_lite\nfrom pa_lite.merging.write import MergeOptions\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        f"pa_lite.merge(*{HUB}, (0.5,), output=sys.argv[1], options=MergeOptions(stream=True, threads=2))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x.gguf")], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not any(fault.times < 10_000 for fault in published.faults):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in err
    assert time.monotonic() - start < 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "body", [b"null", b"[]", b'{"error": 5}', b'{"error": "' + b"x" * 100_000 + b'\\n\\u001b[31m"}']
)
def test_unusual_error_responses_are_reported_in_one_line(published: HubServer, tmp_path: Path, body: bytes) -> None:
    """A storage may respond with any JSON, which huggingface_hub turns into an error or fails to parse."""
    checkpoint = open_checkpoint(HUB[0], stream=True)
    published.fail("status", READS, status=404, body=body, times=99)
    published.fail("status", READS.replace("storage", "hub"), status=404, body=body, times=99)
    with pytest.raises(HubError, match="hub:org/Tiny") as caught:
        fingerprint(checkpoint)
    assert len(str(caught.value)) <= 2000
    assert str(caught.value).isprintable()
