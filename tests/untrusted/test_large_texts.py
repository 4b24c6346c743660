"""Untrusted text files that are too large are refused by size, with the file's name, before they are read."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pa_lite
from pa_lite.errors import PaLiteError
from pa_lite.system.opening import TooLargeError, read_regular
from tests.cli.test_pipes import READERS

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="sparse files")
TEXTS = [name for name in READERS if name not in ("rows: parquet", "GGUF", "safetensors", "model")]


@pytest.mark.parametrize("reader", TEXTS)
def test_a_huge_file_is_refused_by_name_before_it_is_read(reader: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, 5 << 30)
    start = time.monotonic()
    message = r"it has 5\.37e\+03 MB; the limit is .* MB"
    if reader == "rows: JSONL":
        message = "is longer than 16 MB, the limit for a row"
    with pytest.raises(PaLiteError, match=message) as error:
        read(tmp_path / name)
    assert name in str(error.value)
    assert time.monotonic() - start < 5


@pytest.mark.skipif(sys.platform != "linux", reason="Linux resource limits")
def test_a_file_that_does_not_fit_in_memory_is_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.touch()
    os.truncate(path, 250 << 20)
    code = (
        "import resource; from pathlib import Path; from pa_lite.alpaca.outputs import load_prompts; "
        "import pa_lite.errors; held = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (held + (128 << 20),) * 2)\n"
        f"try: load_prompts({str(path)!r})\nexcept pa_lite.errors.PaLiteError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "too large to be read whole: its 262 MB do not fit in memory." in done.stdout, done.stderr


def test_a_file_is_read_completely_whatever_size_it_reports(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3_000_000)
    assert read_regular(path) == b"x" * 3_000_000
    assert read_regular(path, 3_000_000) == b"x" * 3_000_000
    with pytest.raises(TooLargeError, match="the limit is 1 MB"):
        read_regular(path, 1_000_000)
    if sys.platform == "linux":
        assert b"VmRSS" in read_regular(Path("/proc/self/status"))  # reports no size


@pytest.mark.skipif(sys.platform != "linux", reason="Linux resource limits")
@pytest.mark.parametrize(("limit", "option"), [("AS", "-v"), ("DATA", "-d")])
def test_too_little_memory_for_numpy_is_one_error(limit: str, option: str, tmp_path: Path) -> None:
    n = {"AS": 300_000_000, "DATA": 50_000_000}[limit]
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_{limit}, ({n}, {n})); "
        "from pa_lite.cli import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run([*command, "pairs"], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: memory is limited to {n // 10**6} MB (ulimit {option})")
    assert len(done.stderr.splitlines()) == 1
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 0
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="Linux resource limits")
def test_a_file_size_limit_is_not_reported_as_a_full_disk(tmp_path: Path) -> None:
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from pathlib import Path; from pa_lite.errors import OutputError\n"
        "from pa_lite.system.atomic import write_bytes\n"
        "try: write_bytes(Path('out.json'), bytes(5000))\nexcept OutputError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert "files may not exceed 0.001 MB here (ulimit -f). Allow more (ulimit -f unlimited)" in done.stdout, done
    assert "disk is full" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="Linux resource limits")
def test_a_file_size_limit_leaves_no_truncated_pyc_file(tmp_path: Path) -> None:
    shutil.copytree(Path(pa_lite.__file__).parent, tmp_path / "pa_lite", ignore=shutil.ignore_patterns("__pycache__"))
    models = next(path for path in (tmp_path / "pa_lite" / "models", REPOSITORY / "models") if path.is_dir())
    shutil.copytree(models, tmp_path / "models", dirs_exist_ok=True)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "n = int(sys.argv.pop(1))\n"
        "if n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))\n"
        "from pa_lite.cli import main; main(sys.argv[1:])"
    )
    words = ["generate", "demo@0.5", "--prompts", "demo", "-o", "out.json"]
    outcomes = []
    for limit in ("13000", "0"):  # bytes; pa_lite/__init__.py alone compiles to fewer
        outcomes.append(
            subprocess.run(
                [sys.executable, "-c", code, limit, *words, "--max-tokens", "2"], cwd=tmp_path,
                capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": ""},
            )
        )  # fmt: skip
    assert outcomes[0].returncode == 1
    assert outcomes[0].stderr.startswith("error: "), outcomes[0].stderr
    assert outcomes[1].returncode == 0, outcomes[1].stderr
