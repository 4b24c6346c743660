"""Counts and durations of the server, in Prometheus' text format. For one event loop."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from pa_lite.serving.host import Host
from pa_lite.system.machine import resident_bytes

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # seconds
_RECENT = 0.1  # the weight of the newest duration in the mean


class Histogram:
    """Counts durations, in seconds, up to each of a few bounds."""

    def __init__(self) -> None:
        self.n, self.total = 0, 0.0
        self._counts = [0] * len(_BOUNDS)

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.n += 1
        self.total += seconds
        for i, bound in enumerate(_BOUNDS):
            self._counts[i] += seconds <= bound

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """Yield the lines of the text format; `labels` are written as in `a="b"`, or empty."""
        comma = f"{labels}," if labels else ""
        for bound, n in zip((*_BOUNDS, "+Inf"), (*self._counts, self.n), strict=True):
            yield f'{name}_bucket{{{comma}le="{bound}"}} {n}'
        ends = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{ends} {self.total:.6f}"
        yield f"{name}_count{ends} {self.n}"


class Metrics:
    """What the server counts."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.tokens: Counter[str] = Counter()  # prompt, cached, generated
        self.first_token = Histogram()
        self._durations: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.recent = 1.0  # seconds that a request for answers took lately, on average

    def add_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a request that was answered; `endpoint` is a route, not what the client sent."""
        self.requests[endpoint, status] += 1
        self._durations[endpoint].add(seconds)

    def add_work(self, seconds: float, prompt: int, cached: int, generated: int) -> None:
        """Count the tokens of a request for answers."""
        self.recent += _RECENT * (seconds - self.recent)
        self.tokens.update({"prompt": prompt, "cached": cached, "generated": generated})

    def text(self, host: Host | None, running: int, waiting: int) -> str:
        """Return all metrics; those of the models only once they are loaded."""
        lines: list[str] = []

        def add(name: str, kind: str, about: str, values: Mapping[str, float] | Sequence[str]) -> None:
            lines.extend((f"# HELP {name} {about}", f"# TYPE {name} {kind}"))
            if isinstance(values, Mapping):
                lines.extend(f"{name}{labels} {value:g}" for labels, value in values.items())
            else:
                lines.extend(values)

        requests = {f'{{endpoint="{e}",status="{s}"}}': n for (e, s), n in sorted(self.requests.items())}
        add("pa_lite_requests_total", "counter", "Answered HTTP requests.", requests)
        for name, about in (
            ("prompt", "Tokens of prompts."),
            ("cached", "Tokens of prompts that were still in the cache of an earlier answer."),
            ("generated", "Generated tokens."),
        ):
            add(f"pa_lite_{name}_tokens_total", "counter", about, {"": self.tokens[name]})
        add("pa_lite_requests_running", "gauge", "Requests whose answers are being generated.", {"": running})
        add("pa_lite_requests_waiting", "gauge", "Requests that wait for a model or for their turn.", {"": waiting})
        name = "pa_lite_time_to_first_token_seconds"
        add(name, "histogram", "From a streaming request to its first text.", [*self.first_token.lines(name, "")])
        name = "pa_lite_request_duration_seconds"
        found = sorted(self._durations.items())
        durations = [line for e, each in found for line in each.lines(name, f'endpoint="{e}"')]
        add(name, "histogram", "From a request to the end of its answer.", durations)
        if host is not None:
            models = host.models
            lams = {f'{{lam="{lam:g}"}}': 1.0 for lam in sorted(models.lams)}
            add("pa_lite_resident_lam", "gauge", "The lams of the models in memory.", lams)
            add("pa_lite_models_limit", "gauge", "How many models fit in memory.", {"": models.n_models})
            add("pa_lite_moves_total", "counter", "Moves of models to another lam.", {"": models.n_moves})
            add("pa_lite_planned_memory_bytes", "gauge", "Weights and contexts when all models are in memory.",
                {"": models.memory.total})  # fmt: skip
        add("process_resident_memory_bytes", "gauge", "Memory of the process.", {"": resident_bytes()})
        return "\n".join(lines) + "\n"
