"""Jobs with private inputs, which the campaign may break: copies of pairs and models, a folder for each round."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.chaos.jobs import DEMO, Generate, Job, Merge, Scene, Sweep
from tools.chaos.runs import ChaosError, command, run


class LocalJob(ABC):
    """A job whose inputs are in one folder, `source`; `judge` reads its results."""

    def __init__(self, judge: Job, source: Path) -> None:
        self.judge, self.source = judge, source
        self.expected: Mapping[str, Any] = {}
        self.seconds = 0.0

    @property
    def name(self) -> str:
        return self.judge.name

    @property
    def scene(self) -> Scene:
        return self.judge.scene

    def weights(self, inputs: Path) -> list[Path]:
        """Return the files that can be broken."""
        return sorted((*inputs.rglob("*.safetensors"), *inputs.rglob("*.gguf")))

    def environment(self, inputs: Path, out: Path) -> dict[str, str]:
        return self.scene.environment(out)

    @abstractmethod
    def words(self, inputs: Path, out: Path, again: bool = False) -> list[str]:
        """Return the command's words after `pa-lite`."""

    def fresh_results(self, inputs: Path, folder: Path) -> Mapping[str, Any]:
        """Return the results of an undisturbed run on these inputs; `error` if they cannot be used."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        ended = run(self.words(inputs, folder), self.environment(inputs, folder), folder.with_name("log-of-fresh"))
        self.seconds = self.seconds or ended.seconds
        return {"error": ended.err} if ended.status else self.judge.results(folder)

    def measure(self, folder: Path) -> None:
        """Run undisturbed, to learn the result and the duration."""
        for _ in range(2):
            self.seconds = 0.0
            self.expected = self.fresh_results(self.source, folder)
        if "error" in self.expected:
            raise ChaosError(f"{self.name} does not even run undisturbed: {self.expected['error']}")


class LocalMerge(LocalJob):
    """`merge --resume` of the small pair."""

    def words(self, inputs: Path, out: Path, again: bool = False) -> list[str]:
        return command(
            "merge", inputs / "base", inputs / "instruct", "--lam", "0.7", "--type", "Q4_K_M", "--threads", "1", "-o",
            out / "merged.gguf", "--resume",
        )  # fmt: skip


class LocalSweep(LocalJob):
    """`sweep` of the embedded pair, registered in the round's settings."""

    def environment(self, inputs: Path, out: Path) -> dict[str, str]:
        settings = self.scene.folder / "config-of-round"
        registry = settings / "pa-lite" / "pairs.toml"
        registry.parent.mkdir(parents=True, exist_ok=True)
        registry.write_text(f'[mine]\nbase = "{inputs}/base"\ninstruct = "{inputs}/instruct"\n', "utf-8")
        return {**super().environment(inputs, out), "XDG_CONFIG_HOME": str(settings)}

    def words(self, inputs: Path, out: Path, again: bool = False) -> list[str]:
        return command(
            "sweep", "mine", "--lam", "0:1:0.25", "--tasks", "demo", "--limit", "60", "--threads", "1", "--run",
            out / "run",
        )  # fmt: skip


class LocalGenerate(LocalJob):
    """`generate` with a GGUF file, which llama.cpp maps."""

    def words(self, inputs: Path, out: Path, again: bool = False) -> list[str]:
        options = ["--resume"] if again else []
        return command(
            "generate", inputs / "m.gguf", "--prompts", self.scene.prompts, "--max-tokens", "32", "--threads", "1",
            "-o", out / "answers.json", *options,
        )  # fmt: skip


def local_job(job: Job) -> LocalJob:
    """Return the job with private inputs."""
    if isinstance(job, Merge):
        return LocalMerge(job, job.scene.small)
    if isinstance(job, Sweep):
        return LocalSweep(job, DEMO)
    assert isinstance(job, Generate)
    source = job.scene.folder / "gguf"
    if not source.is_dir():
        source.mkdir()
        words = command("merge", "--lam", "0.7", "--type", "F16", "-o", source / "m.gguf")
        run(words, job.scene.environment(source), job.scene.folder / "log")
    return LocalGenerate(job, source)
