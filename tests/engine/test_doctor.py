from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from pa_lite.cli import cli
from pa_lite.engine import abi, doctor
from pa_lite.engine.doctor import SIZES, diagnose, estimate_fit, fits
from pa_lite.ggml.kernels import Device, devices

GB = 10**9


def test_the_cpu_is_listed_with_its_memory() -> None:
    """Every machine has a CPU, with some of its memory free."""
    cpu = next(d for d in devices() if d.kind == "cpu")
    assert cpu.name == "CPU"
    assert cpu.description
    assert 0 < cpu.free <= cpu.total


def test_the_diagnosis_describes_this_machine() -> None:
    found = diagnose()
    assert 0 < found.memory_available <= found.memory_total
    assert found.memory_total == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found.versions["llama-cpp-python"].startswith("0.3")
    assert "not installed" not in found.versions.values()
    assert found.cores == len(os.sched_getaffinity(0))
    assert "CPU" in found.build
    assert found.interface == f"checked: the structures and functions of llama-cpp-python {abi.TESTED}"
    assert found.remarks


def test_estimated_sizes_are_those_of_real_models() -> None:
    """Llama 3.1 8B: 256 KiB of F32 cache a token (32 layers, 8 heads of 128, keys and values), 8.5 GB as Q8_0."""
    (size,) = [s for s in SIZES if s.name == "8B"]
    assert size.cache == doctor.CELLS * 256 * 1024
    assert size.weights("Q8_0") == pytest.approx(8.5e9, rel=0.01)
    assert size.weights("F16") == 16_000_000_000


@pytest.mark.parametrize(
    ("memory", "gpu", "expected"),
    [
        (32, 0, (True, 0)),
        (4, 0, (False, 0)),
        (32, 24, (True, 11)),  # the output matrix counts as a layer
        (4, 24, (True, 11)),
        (32, 6, (True, 5)),  # 5 layers of 1 GB and 0.42 GB of buffers
        (7, 6, (True, 5)),
        (6, 6, (False, 5)),
    ],
)
def test_fit_is_estimated_from_sizes(memory: int, gpu: int, expected: tuple[bool, int]) -> None:
    """Ten layers and an output matrix of 1 GB each, cache included."""
    fit = estimate_fit("x", "F16", 10 * GB, 1 * GB, 10, memory * GB, gpu * GB)
    assert (fit.fits, fit.gpu_layers) == expected


def test_more_memory_fits_more() -> None:
    counts = [sum(f.fits for f in fits(n * GB, 0)) for n in (1, 4, 16, 64, 256)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == len(fits(0, 0))
    assert not any(f.gpu_layers for f in fits(64 * GB, 0))
    layers = [sum(f.gpu_layers for f in fits(64 * GB, n * GB)) for n in (1, 8, 24, 80)]
    assert layers == sorted(layers)


def test_the_command_prints_the_diagnosis() -> None:
    told = CliRunner().invoke(cli, ["doctor"])
    assert told.exit_code == 0
    assert "llama.cpp" in told.output
    assert "70B" in told.output
    as_json = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)
    assert as_json["fits"][0] == {**as_json["fits"][0], "model": "1B", "kind": "F16", "layers": 16}
    assert as_json["devices"][0]["total"] > 0


def test_a_fake_gpu_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """All models except the 70B as F16 fit in the machine's memory, and an 8B fits in the card's 24 GB."""
    card = Device(name="CUDA0", description="a card", kind="gpu", free=24 * GB, total=25 * GB)
    monkeypatch.setattr(doctor, "devices", lambda: [*devices(), card])
    monkeypatch.setattr(doctor, "available_memory", lambda: 100 * GB)
    found = diagnose()
    by = {(f.model, f.kind): f for f in found.fits}
    assert by["8B", "F16"].gpu_layers == 33
    assert 0 < by["70B", "Q4_K_M"].gpu_layers < 80
    output = CliRunner().invoke(cli, ["doctor"]).output
    assert "a card (CUDA0), 24.0 GB free of 25.0 GB" in output
    assert [line.split()[-1] for line in output.splitlines() if line.split()[:2] == ["8B", "F16"]] == ["all"]
