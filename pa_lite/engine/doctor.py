"""`pa-lite doctor`: describe this machine and build of llama.cpp, and estimate which models fit. Loads no model."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pa_lite.checkpoints.hub.status import hub_status
from pa_lite.checkpoints.pairs import all_pairs
from pa_lite.engine.abi import TESTED
from pa_lite.engine.gpu_layers import most_that_fit
from pa_lite.engine.llama import llama
from pa_lite.engine.readiness import (
    Check,
    check_compiler,
    check_extras,
    check_hub,
    check_pairs,
    check_processor,
    processor_flags,
    verdict,
)  # fmt: skip
from pa_lite.ggml.kernels import Device, devices
from pa_lite.system.machine import available_memory, cores, total_memory

CELLS = 2048  # tokens of cache that the table assumes: a few-shot prompt and a batch
_BUFFERS = 400 << 20  # bytes that llama.cpp and Python take in addition to model and cache, about
_PACKAGES = ("pa-lite", "llama-cpp-python", "gguf", "numpy", "safetensors", "huggingface-hub")
# bits per weight; for Q8_0 and Q4_K_M those of typical files of Llama-like models
BITS = {"F16": 16.0, "Q8_0": 8.5, "Q4_K_M": 4.85}


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model size: parameters, layers, and how many numbers the keys (or values) of a token have in a layer."""

    name: str
    parameters: float
    layers: int
    width: int

    def weights(self, weight_type: str) -> int:
        """Return the bytes of all weights."""
        return int(self.parameters * BITS[weight_type] / 8)

    @property
    def cache(self) -> int:
        """Bytes of the F32 cache that scoring uses for CELLS tokens."""
        return 2 * 4 * self.layers * self.width * CELLS


# sizes of the Llama 3 and Qwen 2.5 families
SIZES = (
    Size(name="1B", parameters=1.24e9, layers=16, width=512),
    Size(name="3B", parameters=3.2e9, layers=28, width=1024),
    Size(name="8B", parameters=8.0e9, layers=32, width=1024),
    Size(name="14B", parameters=14.8e9, layers=48, width=1024),
    Size(name="32B", parameters=32.8e9, layers=64, width=1024),
    Size(name="70B", parameters=70.6e9, layers=80, width=1024),
)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Whether a model fits: bytes needed with its cache, whether they fit, and how many layers fit on the GPU."""

    model: str
    kind: str
    needed: int
    fits: bool
    gpu_layers: int
    layers: int


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Facts about the machine; sizes in bytes, 0 where unknown. `remarks` suggest what the user can do.

    `checks` are about common problems of setup; `verdict` sums all up in one sentence.
    """

    system: str
    python: str
    versions: dict[str, str]
    cores: int
    memory_total: int
    memory_available: int
    disk_free: int
    disk_folder: str
    devices: tuple[Device, ...]
    build: str
    interface: str
    gpu_offload: bool
    fits: tuple[Fit, ...]
    remarks: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    verdict: str = ""


def estimate_fit(name: str, weight_type: str, weights: int, cache: int, layers: int, memory: int, gpu: int) -> Fit:
    """Estimate whether weights and cache fit in `memory` bytes, and how many layers fit in `gpu` bytes of a GPU.

    Both are assumed to be spread evenly over the layers and the output matrix, which counts as one layer.
    """
    needed = weights + cache + _BUFFERS
    each = (weights + cache) / (layers + 1)
    on_gpu = most_that_fit(layers + 1, lambda n: _BUFFERS + n * each <= gpu) if gpu else 0
    return Fit(
        model=name,
        kind=weight_type,
        needed=needed,
        fits=needed - int((on_gpu or 0) * each) <= memory,
        gpu_layers=on_gpu or 0,
        layers=layers,
    )


def fits(memory: int, gpu: int) -> tuple[Fit, ...]:
    """Return which common model sizes and types fit in `memory` bytes and `gpu` bytes of GPU memory, by estimate."""
    return tuple(estimate_fit(s.name, k, s.weights(k), s.cache, s.layers, memory, gpu) for s in SIZES for k in BITS)


def diagnose() -> Diagnosis:
    """Collect facts about the machine. Raises EngineError when llama.cpp is missing or has a different interface."""
    lib, found = llama(), tuple(devices())
    gpus = [d for d in found if d.kind in ("gpu", "igpu")]
    memory, gpu = available_memory() or total_memory(), max((d.free for d in gpus), default=0)
    folder = Path(tempfile.gettempdir())
    build = lib.llama_print_system_info().decode("utf-8", "replace").strip()
    processor = check_processor(build, processor_flags())
    checks = (
        check_compiler(), *([processor] if processor else []), check_pairs(all_pairs()), check_hub(hub_status()),
        *check_extras(),
    )  # fmt: skip
    table = fits(memory, gpu)
    largest = max((f for f in table if f.fits), key=lambda f: (f.layers, f.needed), default=None)
    return Diagnosis(
        system=platform.platform(),
        python=platform.python_version(),
        versions={name: _version(name) for name in _PACKAGES},
        cores=cores(),
        memory_total=total_memory(),
        memory_available=available_memory(),
        disk_free=shutil.disk_usage(folder).free,
        disk_folder=str(folder),
        devices=found,
        build=build,
        interface=f"checked: the structures and functions of llama-cpp-python {TESTED}",
        gpu_offload=bool(lib.llama_supports_gpu_offload()),
        fits=table,
        remarks=_remarks(bool(lib.llama_supports_gpu_offload()), gpus),
        checks=checks,
        verdict=verdict(checks, f"{largest.model} as {largest.kind}" if largest else ""),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _remarks(offload: bool, gpus: Sequence[Device]) -> tuple[str, ...]:
    if not offload:
        return (
            "This build of llama.cpp uses only the CPU. For a GPU, install llama-cpp-python built for it "
            '(CMAKE_ARGS="-DGGML_CUDA=on" for NVIDIA, "-DGGML_VULKAN=on" for others).',
        )
    if not gpus:
        return ("This build of llama.cpp supports GPUs, but finds none: check the driver.",)
    return ("What fits is an estimate from sizes; --gpu-layers auto tries it when a model loads.",)
