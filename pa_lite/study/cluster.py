"""Workers on a Ray cluster, each an actor with one model. Requires the extra `cluster`."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine.interrupts import stop_is_due
from pa_lite.errors import EngineError, PaLiteError
from pa_lite.progress import Progress
from pa_lite.study.plan import StudyOptions, StudyPlan, plan_study, with_answers
from pa_lite.study.records import InstructAnswer, Record
from pa_lite.study.worker import LocalWorker, WorkerLostError
from pa_lite.system.markers import temporary_folder

_LOOK = 0.2  # seconds between checks whether to stop
_PATIENCE = 10  # seconds to wait for a cluster's head to accept a connection
_ROOM_PATIENCE = 60  # seconds to wait for a node with enough resources


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise EngineError("Ray is not installed. Install it with: pip install 'pa-lite[cluster]'") from None
    return ray


class _RemoteWorker:
    """The code inside an actor: it makes the plan again from its options, and runs cells on one model."""

    def __init__(
        self,
        pair: str | Pair,
        options: StudyOptions,
        keys: Sequence[str],
        judged: StudyPlan | None,
        here: str | None,
        answers: Mapping[str, Sequence[InstructAnswer]] | None = None,
    ) -> None:
        """Plan the study on this node. A plan of judged pairs is passed in, as the options do not determine it.

        Neither do they determine the answers of instruct. Where these are still to be made, the plan is that of them.
        """
        if here is not None:
            os.chdir(here)  # paths in the options may be relative to the user's folder; nothing is imported from it
        plan = judged or plan_study(pair, options)
        if plan.before is not None:
            plan = plan.before if answers is None else with_answers(plan, answers)
        if [p.cell.key for p in plan.cells] != list(keys):
            raise EngineError(
                "checkpoints, tasks or versions on a node of the cluster differ from those on this machine."
            )
        self._worker = LocalWorker(plan, plan.threads)  # the cores that Ray reserved for it

    def run(self, weight_type: str, lam: float, workload: int, items: Sequence[int]) -> dict[int, Record]:
        return self._worker.run(weight_type, lam, workload, items)


class RayWorker:
    """A sweep's worker that runs as an actor in the cluster."""

    def __init__(self, ray: Any, make_actor: Callable[[], Any], has_room: Callable[[], bool]) -> None:
        self._ray, self._actor, self._has_room = ray, make_actor(), has_room

    def run(
        self, weight_type: str, lam: float, workload: int, items: Sequence[int], *, progress: Progress | None = None
    ) -> dict[int, Record]:
        """Return records by item; the progress gets nothing before a chunk is done.

        Raises WorkerLostError when the actor or its node is lost, or this thread is asked to stop (`stops_when`), the
        actor's own PaLiteError, and EngineError when no remaining node has enough resources.
        """
        try:
            pending = self._actor.run.remote(weight_type, lam, workload, items)
            since = time.monotonic()
            while not self._ray.wait([pending], timeout=_LOOK)[0]:
                if stop_is_due():
                    raise WorkerLostError("stopped")
                if self._has_room():
                    since = time.monotonic()
                elif time.monotonic() - since > _ROOM_PATIENCE:
                    raise EngineError(
                        f"no node of the cluster has had the resources for this model for {_ROOM_PATIENCE} seconds. "
                        "Finished results are kept: fix the cluster and run the same command again."
                    )
            records: dict[int, Record] = self._ray.get(pending)
            return records
        except self._ray.exceptions.RayTaskError as e:
            cause = e.cause if isinstance(getattr(e, "cause", None), PaLiteError) else None
            raise cause or EngineError(f"a worker of the cluster failed: {str(e).strip().splitlines()[-1]}") from e
        except self._ray.exceptions.RayActorError as e:
            if "PaLiteError" in str(e) or "EngineError" in str(e):  # raised in the actor's constructor
                raise EngineError(f"a worker failed to start: {str(e).strip().splitlines()[-1]}") from e
            raise WorkerLostError(str(e)) from e
        except self._ray.exceptions.RayError as e:
            raise WorkerLostError(str(e)) from e

    def close(self) -> None:
        """Kill the actor; it may be dead already."""
        self._ray.kill(self._actor)


@contextmanager
def ray_workers(
    pair: str | Pair, address: str | None = None
) -> Iterator[Callable[[StudyPlan], tuple[Callable[[], RayWorker], int]]]:
    """Connect to a cluster; yield a function that returns, for a plan, a factory of workers and their number.

    `address` is that of a running cluster; without one a cluster is started on this machine. Memory, cores and GPU are
    declared to Ray. Raises EngineError when Ray is not installed or not reachable, and for a plan when no node has the
    resources for its model.
    """
    is_local = not (address or os.environ.get("RAY_ADDRESS"))
    if is_local:
        _protect()
    ray = _ray()
    _reach(address)
    ours = not ray.is_initialized()
    here = os.getcwd() if ours and is_local else None

    def workers_for(plan: StudyPlan) -> tuple[Callable[[], RayWorker], int]:
        needs, lock = _needs(plan), threading.Lock()
        n_workers = _room(ray, needs)
        if not n_workers:
            required = ", ".join(f"{name} {amount:g}" for name, amount in needs.items())
            raise EngineError(f"no node of the Ray cluster has the resources for this model: {required}.")
        remote = ray.remote(
            num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), memory=needs["memory"], max_restarts=0
        )(_RemoteWorker)
        # a node plans the study itself, which checks that its checkpoints and tasks are the same as here
        judged = replace(plan, merges={}) if any(each.judge for each in plan.workloads) else None

        def make_worker() -> RayWorker:
            with lock:
                return RayWorker(
                    ray,
                    lambda: remote.remote(
                        pair, plan.options, [p.cell.key for p in plan.cells], judged, here, plan.answers
                    ),
                    lambda: _room(ray, needs) > 0,
                )

        return make_worker, min(n_workers, len({(p.cell.type, p.cell.lam) for p in plan.cells}))

    with contextlib.ExitStack() as stack:
        if ours:
            _connect(ray, address, stack.enter_context(temporary_folder()))
            stack.callback(ray.shutdown)
        yield workers_for


def _protect() -> None:
    """Require a token for a cluster started here, and turn off Ray's usage reports.

    Ray listens on all networks and runs whatever it is sent. The user's settings are kept; after Ray is imported, it is
    too late to require a token.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _connect(ray: Any, address: str | None, empty: Path) -> None:
    """Connect to a cluster, or start one on this machine. Raises EngineError when it cannot be reached.

    Ray puts the current folder first on its workers' import path, so the current folder is an empty one meanwhile:
    nothing is imported from the user's folder.
    """
    here = os.getcwd()
    os.chdir(empty)
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as e:
        name = address or "a cluster on this machine"
        raise EngineError(f"Ray cannot reach {name}: {str(e).strip().splitlines()[0]}") from e
    finally:
        os.chdir(here)


def _reach(address: str | None) -> None:
    """Raise EngineError unless something listens at HOST:PORT; Ray itself would keep trying for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except OSError as e:
        raise EngineError(f"Ray cannot reach {address}: {e.strerror or e}. Is the cluster running?") from e


def _needs(plan: StudyPlan) -> dict[str, float]:
    """Return one worker's resources by Ray's names: cores, bytes of memory, and a GPU when layers go there."""
    out = {"CPU": float(plan.threads), "memory": float(plan.memory / plan.workers)}
    if plan.options.engine.gpu_layers not in (0, "auto"):
        out["GPU"] = 1.0
    return out


def _room(ray: Any, needs: dict[str, float]) -> int:
    """Return how many workers the living nodes have resources for."""
    total = 0
    for node in ray.nodes():
        if node["Alive"]:
            total += min(int(node["Resources"].get(name, 0) // amount) for name, amount in needs.items())
    return total
