"""The README's Python examples run unchanged, in one folder and in order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pa_lite

README = Path(pa_lite.__file__).parents[1] / "README.md"


def test_python_examples_run(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        run = subprocess.run(
            [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", block],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, f"{block}\n{run.stderr}"
    assert (tmp_path / "m.gguf").is_file()
