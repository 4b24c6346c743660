"""Workers on a Ray cluster: each an actor that builds a lam once and does works on it. Needs the extra `cluster`."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pa_lite.checkpoints.pairs import Pair
from pa_lite.engine.interrupts import stop_is_due
from pa_lite.errors import EngineError, PaLiteError
from pa_lite.study.plan import StudyOptions, StudyPlan, plan_study
from pa_lite.study.records import Record
from pa_lite.study.worker import LocalWorker, WorkerLostError
from pa_lite.system.markers import temporary_folder

_LOOK = 0.2  # seconds between looks whether to stop
_PATIENCE = 10  # seconds that a cluster's head may take to answer
_ROOM_PATIENCE = 60  # seconds that a worker may wait for a node with room for it


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise EngineError("Ray is not installed. Install it with: pip install 'pa-lite[cluster]'") from None
    return ray


class _RemoteWorker:
    """What runs inside an actor: the plan made anew from its names, and one model."""

    def __init__(
        self, pair: str | Pair, options: StudyOptions, keys: Sequence[str], judged: StudyPlan | None, here: str | None
    ) -> None:
        """Plan the study here, or take a plan of what a judge compares, which no names give."""
        if here is not None:
            os.chdir(here)  # names in the plan may depend on the user's folder; nothing is imported from it
        plan = judged or plan_study(pair, options)
        if [p.cell.key for p in plan.cells] != list(keys):
            raise EngineError("a node of the cluster has other checkpoints, tasks or versions than this machine.")
        self._worker = LocalWorker(plan, plan.threads)  # what the cluster keeps free for it

    def run(self, kind: str, lam: float, work: int, items: Sequence[int]) -> dict[int, Record]:
        return self._worker.run(kind, lam, work, items)


class RayWorker:
    """A worker of a sweep that is an actor somewhere in the cluster."""

    def __init__(self, ray: Any, make_actor: Callable[[], Any], has_room: Callable[[], bool]) -> None:
        self._ray, self._actor, self._has_room = ray, make_actor(), has_room

    def run(self, kind: str, lam: float, work: int, items: Sequence[int]) -> dict[int, Record]:
        """Records by item. Raises WorkerLostError when the actor or its node is gone, PaLiteError as raised there.

        Also WorkerLostError once this thread is asked to stop (`stops_when`): nobody waits for the chunk then.
        EngineError when no node with room is left, which only more nodes can fix.
        """
        try:
            pending = self._actor.run.remote(kind, lam, work, items)
            since = time.monotonic()
            while not self._ray.wait([pending], timeout=_LOOK)[0]:
                if stop_is_due():
                    raise WorkerLostError("stopped")
                if self._has_room():
                    since = time.monotonic()
                elif time.monotonic() - since > _ROOM_PATIENCE:
                    raise EngineError(
                        f"for {_ROOM_PATIENCE} seconds no node of the cluster has had room for this model. What was "
                        "finished is kept: fix the cluster and run the same command again."
                    )
            records: dict[int, Record] = self._ray.get(pending)
            return records
        except self._ray.exceptions.RayTaskError as e:
            cause = e.cause if isinstance(getattr(e, "cause", None), PaLiteError) else None
            raise cause or EngineError(f"a worker of the cluster failed: {str(e).strip().splitlines()[-1]}") from e
        except self._ray.exceptions.RayActorError as e:
            if "PaLiteError" in str(e) or "EngineError" in str(e):  # it could not even begin
                raise EngineError(f"a worker could not begin: {str(e).strip().splitlines()[-1]}") from e
            raise WorkerLostError(str(e)) from e
        except self._ray.exceptions.RayError as e:
            raise WorkerLostError(str(e)) from e

    def close(self) -> None:
        """Let the actor go; one that is gone already does no harm."""
        self._ray.kill(self._actor)


@contextmanager
def ray_workers(
    pair: str | Pair, address: str | None = None
) -> Iterator[Callable[[StudyPlan], tuple[Callable[[], RayWorker], int]]]:
    """Connect to a cluster until the end; give what, for a plan, gives a maker of workers and how many fit at a time.

    `address` is a running cluster's; without one a cluster is started on this machine. Memory, cores and GPU are
    declared to Ray. Raises EngineError when Ray is not installed or not reachable, and for a plan when no node has room
    for its model.
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
            told = ", ".join(f"{name} {amount:g}" for name, amount in needs.items())
            raise EngineError(f"no node of the Ray cluster has room for this model ({told} needed).")
        remote = ray.remote(
            num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), memory=needs["memory"], max_restarts=0
        )(_RemoteWorker)
        # a node makes the plan of a study anew from its names: what it reads must be what is here
        judged = replace(plan, merges={}) if any(work.judge for work in plan.works) else None

        def make_worker() -> RayWorker:
            with lock:
                return RayWorker(
                    ray,
                    lambda: remote.remote(pair, plan.options, [p.cell.key for p in plan.cells], judged, here),
                    lambda: _room(ray, needs) > 0,
                )

        return make_worker, min(n_workers, len({(p.cell.type, p.cell.lam) for p in plan.cells}))

    with contextlib.ExitStack() as stack:
        if ours:
            _connect(ray, address, stack.enter_context(temporary_folder()))
            stack.callback(ray.shutdown)
        yield workers_for


def _protect() -> None:
    """Let a cluster that is about to be started here answer this process alone, and report nothing to Ray's makers.

    Ray listens on all networks, and runs whatever it is sent. What the user has set stays; once Ray is imported, it is
    too late to ask for a token.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _connect(ray: Any, address: str | None, empty: Path) -> None:
    """Connect to a cluster, or start one on this machine. Raises EngineError when it cannot be reached.

    Ray puts the folder that the process stands in before all others that its workers import from, and starts its
    processes in it. So the process stands in an empty one meanwhile: nothing is imported from the user's folder.
    """
    here = os.getcwd()
    os.chdir(empty)
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as e:
        told = address or "a cluster on this machine"
        raise EngineError(f"Ray cannot reach {told}: {str(e).strip().splitlines()[0]}") from e
    finally:
        os.chdir(here)


def _reach(address: str | None) -> None:
    """Raise EngineError unless something listens at HOST:PORT; Ray itself would go on trying for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except OSError as e:
        raise EngineError(f"Ray cannot reach {address}: {e.strerror or e}. Is the cluster running?") from e


def _needs(plan: StudyPlan) -> dict[str, float]:
    """What one worker takes, in Ray's words: cores, bytes of memory, and a GPU when layers shall lie there."""
    out = {"CPU": float(plan.threads), "memory": float(plan.memory / plan.workers)}
    if plan.options.engine.gpu_layers not in (0, "auto"):
        out["GPU"] = 1.0
    return out


def _room(ray: Any, needs: dict[str, float]) -> int:
    """How many workers the nodes that are alive can hold."""
    total = 0
    for node in ray.nodes():
        if node["Alive"]:
            total += min(int(node["Resources"].get(name, 0) // amount) for name, amount in needs.items())
    return total
