"""Packs on more than one machine, or more than one GPU: Ray actors that each hold a replica.

A driver (the process of `interp-steer sweep`) hands packs to actors as they become free and gets
rows back; it alone writes shards. What happens to a lost worker is Ray's business: the actor is
started again where there is room, loads the run anew and does its pack again. A pack's rows reach
the driver once, because only its result is taken, however often it was tried.

Workers open the run directory themselves, so it, the model and the scenario file must lie at the
same path on every node (a shared file system), with the same package versions: the run's pins are
checked on each, its arithmetic is not. Other hardware rounds otherwise, and a draw close to the
edge between two tokens may then fall on the other side.

Packs and rows travel by Ray's own transport, which pickles them between trusted processes of one
job. No artifact of this project is a pickle; do not expose a Ray port to a network you do not
trust.
"""

import logging
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from interp_steer.errors import InterpSteerError
from interp_steer.packs import Pack, PackWorker

QUEUED_PER_WORKER = 2
"""Packs handed out per worker: one in work, one that waits, so that none idles while the driver
writes a shard, and few enough that a long grid is not held in memory twice."""
RESTARTS = 8
"""Times that Ray starts one actor again before it gives up."""
RETRIES = 3
"""Times that Ray does one pack again because its actor died: a pack that kills every worker (the
kernel's out-of-memory killer, for one) ends the sweep instead of keeping it busy for ever."""
REACHED_WITHIN = 10.0
"""Seconds to wait for a cluster's address to answer."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Set unless the environment says otherwise: nothing is reported to anyone, and a worker without a
GPU sees the devices that it would see without Ray."""

CALM: dict[str, Any] = {"logging_level": logging.WARNING}
"""Ray's own narration is for those who run Ray."""


class EngineError(InterpSteerError):
    """Ray is missing, cannot be reached, has too little to offer, or lost a worker for good."""


@runtime_checkable
class Recipe(Protocol):
    """How a process makes itself a worker; must survive Ray's transport."""

    @property
    def device(self) -> str:
        """Where the worker's model runs: cpu, cuda."""
        ...

    def load(self) -> PackWorker:
        """Return a worker of the present process."""
        ...


class RayEngine:
    """Runs packs on Ray actors; they live from the first pack to `close`, over several runs.

    with RayEngine(recipe, address="auto", num_gpus_per_worker=1) as engine:
        run_cells(run, blocks, setting=setting, engine=engine)
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        address: str | None = None,
        n_workers: int | None = None,
        num_gpus_per_worker: float = 0.0,
        num_cpus_per_worker: float = 1.0,
    ) -> None:
        """Keep what is wanted; Ray is touched by the first pack.

        Args:
            recipe: what each actor loads.
            address: of a running cluster ("auto" finds the one this node belongs to); None starts
                Ray on this machine alone and stops it again. Where this process is connected
                already, that connection is used.
            n_workers: actors; None takes as many as the cluster's resources hold.
            num_gpus_per_worker: GPUs of one actor; a fraction lets several share one, more than
                one is for models that are spread over several.
            num_cpus_per_worker: cores of one actor.

        Raises:
            EngineError: Ray is not installed, or the numbers contradict each other.
        """
        _check(recipe, n_workers, num_gpus_per_worker, num_cpus_per_worker)
        self._ray = _import_ray()
        self._recipe, self._address, self._n_workers = recipe, address, n_workers
        self._needs = {"CPU": num_cpus_per_worker, "GPU": num_gpus_per_worker}
        self._actors: list[Any] = []
        self._is_ours = False

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, packs: Iterable[Pack]) -> Iterator[pa.Table]:
        """Yield the rows of each pack, each pack once, in the order in which they are done.

        Raises:
            EngineError: no cluster, too few resources, or a worker that Ray could not replace.
            InterpSteerError: whatever a worker refused, as it would be raised locally.
        """
        waiting = iter(packs)
        first = next(waiting, None)
        if first is None:
            return
        pool = self._pool()
        pool.submit(_submit, first)
        for pack in islice(waiting, QUEUED_PER_WORKER * len(self._actors) - 1):
            pool.submit(_submit, pack)
        while pool.has_next():
            rows = self._next(pool)
            for pack in islice(waiting, 1):
                pool.submit(_submit, pack)
            yield rows

    def close(self) -> None:
        """End the actors, and Ray where this engine started it; nothing to do twice."""
        for actor in self._actors:
            # A cluster that is gone has no actors left to end.
            with suppress(RuntimeError, ValueError, self._ray.exceptions.RayError):
                self._ray.kill(actor)
        self._actors = []
        if self._is_ours:
            self._is_ours = False
            self._ray.shutdown()

    def _pool(self) -> Any:
        from ray.util import ActorPool

        if not self._actors:
            self._connect()
            replica = self._ray.remote(Replica).options(
                num_cpus=self._needs["CPU"],
                num_gpus=self._needs["GPU"],
                max_restarts=RESTARTS,
                max_task_retries=RETRIES,
            )
            self._actors = [replica.remote(self._recipe) for _ in range(self._count())]
        return ActorPool(self._actors)

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        if self._address is not None:
            _check_reachable(self._address)
        try:
            if self._address is None:
                cpus = None if self._n_workers is None else self._n_workers * self._needs["CPU"]
                local = {"num_cpus": None if cpus is None else max(1, -int(-cpus // 1))}
                self._ray.init(address="local", include_dashboard=False, **CALM, **local)
            else:
                self._ray.init(address=self._address, **CALM)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _unreachable(self._address or "this machine", error) from error
        self._is_ours = True

    def _count(self) -> int:
        offered = self._ray.cluster_resources()
        room = min(
            int(offered.get(name, 0) / need) for name, need in self._needs.items() if need > 0
        )
        wanted = room if self._n_workers is None else self._n_workers
        if wanted < 1 or wanted > room:
            need = " and ".join(f"{need:g} {name}" for name, need in self._needs.items() if need)
            has = ", ".join(f"{offered.get(name, 0):g} {name}" for name in self._needs)
            raise EngineError(
                f"{max(wanted, 1)} workers of {need} each do not fit into a cluster with {has} in "
                "all; ask for fewer workers or less for each, or add nodes"
            )
        return wanted

    def _next(self, pool: Any) -> pa.Table:
        """The next finished pack; a refusal comes out as what it was on the worker."""
        exceptions = self._ray.exceptions
        try:
            return pool.get_next_unordered()
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, InterpSteerError):
                raise error.cause from error
            raise
        except exceptions.RayActorError as error:
            raise EngineError(
                f"a worker was lost and Ray could not replace it: {error}. The rows written so far "
                "stay; see the node's memory and Ray's logs, then run the same command again"
            ) from error


class Replica:
    """What lives in an actor: one worker, made where it works.

    Made with the first pack and not before: what `load` refuses is then the answer to a task, and
    reaches the driver as itself.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._worker: PackWorker | None = None

    def run(self, pack: Pack) -> pa.Table:
        """The rows of a pack."""
        if self._worker is None:
            self._worker = self._recipe.load()
        return self._worker.run(pack)


def _submit(actor: Any, pack: Pack) -> Any:
    return actor.run.remote(pack)


def _check(
    recipe: Recipe, n_workers: int | None, num_gpus_per_worker: float, num_cpus_per_worker: float
) -> None:
    if n_workers is not None and n_workers < 1:
        raise EngineError(f"n_workers must be at least 1, got {n_workers}")
    if num_gpus_per_worker < 0 or num_cpus_per_worker <= 0:
        raise EngineError(
            "a worker needs some of a CPU and no negative share of a GPU, got num_cpus_per_worker "
            f"{num_cpus_per_worker:g} and num_gpus_per_worker {num_gpus_per_worker:g}"
        )
    if recipe.device.startswith("cuda") != (num_gpus_per_worker > 0):
        raise EngineError(
            f"workers on {recipe.device} and num_gpus_per_worker {num_gpus_per_worker:g} do not go "
            "together; give --device cuda with --num-gpus-per-worker 1, or neither"
        )


def _check_reachable(address: str) -> None:
    """Refuse an address where nobody answers; Ray itself would try for many minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not port.isdecimal():  # "auto" and the like: Ray knows at once
        return
    try:
        socket.create_connection((host, int(port)), timeout=REACHED_WITHIN).close()
    except OSError as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> EngineError:
    return EngineError(
        f"no Ray cluster at {address}: {error}. Start one with `ray start --head`, or leave "
        "--address out for workers on this machine alone"
    )


def _import_ray() -> Any:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise EngineError(
            "the engine ray needs the package ray, which is not installed; get it with "
            "`pip install 'interp-steer[ray]'`, or use --engine local"
        ) from error
    return ray
