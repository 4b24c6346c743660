"""What a newcomer trips over: compiler, processor, memory, the Hub, optional packages; and one sentence on it all."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pa_lite.checkpoints.hub.status import HubStatus
from pa_lite.checkpoints.pairs import Pair, pair_fit

OK, NOTE, PROBLEM = "ok", "note", "problem"
_COMPILERS = ("c++", "g++", "clang++", "cl")
_INSTALL_COMPILER = {
    "Linux": "install g++ (Debian and Ubuntu: sudo apt install build-essential)",
    "Darwin": "run xcode-select --install",
    "Windows": "install Build Tools for Visual Studio with C++",
}
# extra -> (module, what it is for)
_EXTRAS = {
    "serve": ("fastapi", "pa-lite serve"),
    "harness": ("lm_eval", "lm-eval's tasks"),
    "cluster": ("ray", "sweeps on several machines"),
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was checked: `status` is ok, note (works, with a limit) or problem; `advice` says what to do."""

    name: str
    status: str
    found: str
    advice: str = ""


def check_compiler() -> Check:
    """Check for a C++ compiler, which an update of llama-cpp-python requires where there is no wheel for it."""
    found = next((name for name in _COMPILERS if shutil.which(name)), None)
    if found is not None:
        return Check(name="compiler", status=OK, found=found)
    advice = _INSTALL_COMPILER.get(platform.system(), "install a C++ compiler")
    return Check(
        name="compiler", status=NOTE, found="none",
        advice=f"to update llama-cpp-python, which may be built from source, {advice}",
    )  # fmt: skip


def check_processor(build: str, flags: frozenset[str] | None) -> Check | None:
    """Compare the processor with the build of llama.cpp; None where the processor has no AVX2 by design.

    `build` is llama.cpp's list of features, `flags` are the processor's, None where unknown.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    is_built, has = re.search(r"\bAVX2 = 1\b", build) is not None, None if flags is None else "avx2" in flags
    if has is False:
        return Check(
            name="AVX2", status=NOTE, found="this processor lacks it", advice="expect a fraction of the usual speed"
        )
    if not is_built:
        return Check(
            name="AVX2", status=NOTE, found="llama.cpp was built without it",
            advice="reinstall it for this processor: pip install --force-reinstall --no-cache-dir llama-cpp-python",
        )  # fmt: skip
    return Check(name="AVX2", status=OK, found="used")


def processor_flags() -> frozenset[str] | None:
    """Return the processor's features as Linux names them; None on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return None
    line = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(line[1].split()) if line else None


def check_pairs(pairs: Mapping[str, Pair]) -> Check:
    """Check which registered pairs fit in the memory that is free now; the largest is named."""
    sized = sorted((p for p in pairs.values() if p.parameters), key=lambda p: p.parameters)
    running = [(pair, runs) for pair in sized if (runs := pair_fit(pair).runs)]
    if not running:
        return Check(
            name="pairs", status=NOTE, found="only the demo pair fits in the free memory", advice="close other programs"
        )
    pair, runs = running[-1]
    size = f"{pair.parameters / 1e9:.3g}B"
    return Check(
        name="pairs", status=OK,
        found=f"{len(running)} of {len(sized)} registered pairs fit; the largest is {pair.name} ({size}, {runs[-1]})",
    )  # fmt: skip


def check_hub(hub: HubStatus) -> Check:
    """Describe whether models can be downloaded."""
    login = "logged in" if hub.has_token else "not logged in"
    if hub.answers is None:
        return Check(
            name="Hub", status=NOTE, found="offline (HF_HUB_OFFLINE is set)",
            advice="unset it to download models; what is in the cache can be used",
        )  # fmt: skip
    if not hub.answers:
        return Check(
            name="Hub", status=NOTE, found=f"{hub.endpoint} cannot be reached ({hub.reason})",
            advice="check network and proxy; local models work without it",
        )  # fmt: skip
    advice = "" if hub.has_token else "gated models require a login: hf auth login"
    return Check(name="Hub", status=OK, found=f"{hub.endpoint} answers; {login}", advice=advice)


def check_extras() -> list[Check]:
    """Check which optional packages are installed."""
    return [
        Check(name=extra, status=OK, found="installed")
        if importlib.util.find_spec(module) is not None
        else Check(name=extra, status=OK, found=f"not installed; for {use}: pip install 'pa-lite[{extra}]'")
        for extra, (module, use) in _EXTRAS.items()
    ]


def verdict(checks: Sequence[Check], largest: str) -> str:
    """Return one sentence on all checks; `largest` names the largest model size and type that fit, empty if none."""
    problems = [check for check in checks if check.status == PROBLEM]
    if problems:
        return f"Not ready: {problems[0].name}: {problems[0].found}."
    notes = [check.name for check in checks if check.status == NOTE]
    size = f"models up to {largest} fit" if largest else "only small models fit"
    rest = f", with {len(notes)} remark{'s' if len(notes) > 1 else ''} ({', '.join(notes)})" if notes else ""
    return f"Ready: pa-lite works on this machine and {size}{rest}."
