"""The process that is connected to a Ray cluster: it submits a sweep's tasks and reports their progress."""

import math
import os
import signal
import sys
import traceback
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from midalign import __version__, record
from midalign.cluster.node import (
    TaskBoard,
    evaluation_settings,
    generate_answers,
    inspect_node,
    run_task,
    score_adapters,
    train_adapter,
)
from midalign.data import cache
from midalign.errors import ClusterError, MidalignError, first_line
from midalign.sweep.points import ALONE, Point
from midalign.train.recipe import Recipe
from midalign.train.run import is_trained, training_runs

LOG = "ray.log"
"""File in the sweep's folder with the output of Ray and of the processes on its nodes."""

PATIENCE = 60
"""Seconds to wait for a connection to the cluster, and for each node to be inspected."""

TRIES_AGAIN = 3
"""Times that a task is restarted after its process or node died: Ray's own default."""

ENVIRONMENT = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
"""Environment variables that the nodes inherit."""


@dataclass(frozen=True)
class SweepStanding:
    """Progress of a sweep on a cluster, sent every second. It counts runs and evaluations of one model."""

    done: int
    running: int
    failed: int
    total: int
    news: tuple[str, ...] = ()
    """Lines about tasks that ended and nodes that were lost since the last one."""


def drive(
    send: Connection, address: str, groups: list[list[Recipe]], points: list[Point], folder: Path
) -> None:
    """Run the driver's process. Sends a SweepStanding every second, and finally None or an exception."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the client ends this process
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    try:
        with _connected(address):
            ClusterSweep(send, groups, points, folder).run()
        send.send(None)
    except BrokenPipeError:
        return  # the client has ended
    except ConnectionError:  # raised by Ray's client (ray://)
        send.send(cluster_lost(address, folder))
    except (MidalignError, OSError) as error:
        send.send(error)
    except Exception as error:
        of_ray = type(error).__module__.partition(".")[0] == "ray"
        send.send(cluster_lost(address, folder) if of_ray else RuntimeError(traceback.format_exc()))


def cluster_lost(address: str, folder: Path) -> ClusterError:
    """Return the error for a cluster that went away."""
    return ClusterError(
        f"The Ray cluster at {address} went away. Finished work is kept: once the cluster is back, rerun "
        f"the same command to resume. Ray's output is in {folder / LOG}"
    )


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Hold a connection to Ray for the duration of the sweep."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    # torch and tqdm read these when they are imported. Ray sets the number of threads to a task's one CPU.
    variables = {"OMP_WAIT_POLICY": "passive", "TQDM_DISABLE": "1", "MIDALIGN_CACHE": str(_cache())}
    variables |= {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    try:
        ray.init(address, runtime_env={"env_vars": variables})
    except Exception as error:  # Ray raises a dozen types: other versions, a machine outside the cluster, ...
        raise ClusterError(
            f"Ray at {address} rejected the connection: {' '.join(str(error).split())[:600]} "
            f"From outside the cluster use --ray ray://HOST:10001, or make this machine a node first"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _cache() -> Path:
    return cache.cache_folder().absolute()


@dataclass(frozen=True)
class ClusterTask:
    """A function of midalign.cluster.node to run in a process of its own."""

    title: str
    function: Callable[..., None]
    arguments: tuple[Any, ...]
    trains: "TrainedAdapter | None" = None
    """The adapter that is to be answered once this task is done."""
    size: int = 1
    """Runs and evaluations of one model that this task consists of."""


class TrainedAdapter(NamedTuple):
    """An adapter to answer, and the number of the group of recipes that its recipe belongs to."""

    group: int
    name: str
    folder: Path


@dataclass
class ClusterSweep:
    """Submits a sweep's tasks, watches the nodes and collects failures."""

    send: Connection
    groups: Sequence[Sequence[Recipe]]
    points: Sequence[Point]
    folder: Path
    pending: dict[Any, tuple[int, ClusterTask]] = field(default_factory=dict)
    """Number and task by Ray's object reference."""
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Ray's description of each live node by id."""
    packages: dict[str, str] = field(default_factory=dict)
    """Package versions of the first inspected node."""
    waiting: list[TrainedAdapter] = field(default_factory=list)
    """Trained adapters whose answers no task generates yet."""
    answers: int = 0
    """Models to answer in all, adapters and bases."""
    gpus: int = 0
    """GPUs of a task: 1 if the cluster has any."""
    begun: int = 0
    done: int = 0
    failed: int = 0
    total: int = 0
    failures: list[Exception] = field(default_factory=list)

    def run(self) -> None:
        """Run all tasks. Raises the error of those that failed."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.tell()
        self.gpus = int(ray.cluster_resources().get("GPU", 0) >= 1)
        self.here = ray.get_runtime_context().get_node_id()
        self.watch()
        if not any(map(self._takes_tasks, self.nodes.values())):
            raise ClusterError("No node of the Ray cluster has a free GPU or CPU. Check: ray status")
        self.board = ray.remote(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(self.here, soft=False),
        )(TaskBoard).remote()
        # One process per task: a process that has trained keeps memory for every batch shape it has seen.
        self.begin = ray.remote(num_cpus=1, num_gpus=self.gpus, max_calls=1, max_retries=TRIES_AGAIN)(
            run_task
        )
        first, last = self.plan()
        trains = sum(task.function is train_adapter for task in first)
        self.total = trains + self.answers + len(last)
        for task in first:
            self.submit(task)
        self.wait()
        for task in last:  # one after another, since each removes files of the shared results folder
            if not self.failures:
                self.submit(task)
                self.wait()
        if self.failures:
            raise self._failure()

    def _takes_tasks(self, node: dict[str, Any]) -> bool:
        return bool(node["Resources"].get("GPU", 0) >= self.gpus and node["Resources"].get("CPU", 0) >= 1)

    def plan(self) -> tuple[list[ClusterTask], list[ClusterTask]]:
        """Return the tasks that may run at once, and those that run after all of them.

        Adapters that are trained already wait for `submit_answers`. One final evaluation finds the answers
        and does what concerns all adapters together (the layers that retrieval is measured at, the base's
        roles). It writes the same records as a local sweep.
        """
        results = self.folder / "results"
        first, last = [], []
        for group, recipes in enumerate(self.groups):
            for recipe in recipes:
                for arm, seed, folder in training_runs(recipe):
                    name = f"{recipe.name}-{arm}-seed{seed}"
                    adapter = TrainedAdapter(group, name, folder)
                    if not is_trained(folder, recipe, arm):
                        trains = adapter if arm != ALONE else None
                        task = ClusterTask(f"{name} trains", train_adapter, (recipe, arm, seed), trains)
                        first.append(task)
                    elif arm != ALONE and not _has_record(name, results):
                        self.waiting.append(adapter)
            recipe = recipes[0]
            if recipe.evaluation.base and not _has_record(recipe.base_name, results):
                settings = evaluation_settings(recipe, [], results)
                first.append(ClusterTask(f"{recipe.base_name} answers", generate_answers, (settings,)))
            last.append(ClusterTask("records", score_adapters, (recipes, self.points, results)))
        bases = sum(task.function is generate_answers for task in first)
        self.answers = bases + len(self.waiting) + sum(task.trains is not None for task in first)
        return first, last

    def submit(self, task: ClusterTask) -> None:
        """Send a task to Ray."""
        begin = self.begin.options(name=task.title)  # shown by `ps` and Ray's dashboard
        reference = begin.remote(self.board, self.begun, str(Path.cwd()), task.function, task.arguments)
        self.pending[reference] = self.begun, task
        self.begun += 1

    def wait(self) -> None:
        """Wait until no task is pending and no adapter waits for its answers."""
        import ray

        self.submit_answers(())
        while self.pending:
            ready, _ = ray.wait(list(self.pending), timeout=1)
            news = self.watch()
            running = self.tell(*news, *[self.settle(reference) for reference in ready])
            self.submit_answers(running)

    def submit_answers(self, running: Collection[int]) -> None:
        """Give waiting adapters to the devices that are free, each device its share of those of one base.

        A device loads a base once for several adapters, so they wait while a run waits for a device. They do
        not wait for the longest run, since that would leave devices idle. `running` are the numbers of the
        tasks that have a device.
        """
        while self.waiting and len(running) >= len(self.pending):
            free = self._devices() - len(self.pending)
            if self.pending and free <= 0:
                return
            group = self.waiting[0].group
            alike = [adapter for adapter in self.waiting if adapter.group == group]
            chosen = alike[: self._share()]
            self.waiting = [adapter for adapter in self.waiting if adapter not in chosen]
            others = f" and {len(chosen) - 1} more" if len(chosen) > 1 else ""
            folders = [adapter.folder for adapter in chosen]
            settings = evaluation_settings(self.groups[group][0], folders, self.folder / "results")
            title = f"{chosen[0].name}{others} answers"
            self.submit(ClusterTask(title, generate_answers, (settings,), size=len(chosen)))
            running = [*running, self.begun - 1]

    def _share(self) -> int:
        """Return how many adapters a device answers with one engine: an equal share of all of the sweep."""
        return math.ceil(self.answers / max(1, self._devices()))

    def _devices(self) -> int:
        """Return how many tasks the live nodes can run at once."""
        resources = [node["Resources"] for node in self.nodes.values() if self._takes_tasks(node)]
        return sum(int(min(has["CPU"], has["GPU"] if self.gpus else has["CPU"])) for has in resources)

    def watch(self) -> list[str]:
        """Update the list of nodes, check new ones, and return a line per lost node.

        Raises ClusterError if a new node does not fit, and Ray's error if the driver's own node is lost.
        """
        import ray

        before, self.nodes = self.nodes, {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        if self.here not in self.nodes:
            raise ray.exceptions.LocalRayletDiedError
        new = [node for name, node in self.nodes.items() if name not in before and self._takes_tasks(node)]
        if new:
            self.check(new)
        return [
            f"node {before[lost]['NodeName']} is lost. Its tasks will be repeated on other nodes"
            for lost in before.keys() - self.nodes.keys()
        ]

    def settle(self, reference: Any) -> str:
        """Record that a task ended, submit the task after it, and return a line about it."""
        import ray

        _, task = self.pending.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            known = isinstance(cause, MidalignError | OSError)
            self.failures.append(cause if known else ClusterError(f"{task.title}: {error}"))
        except ray.exceptions.RayError as error:
            reason = first_line(error)
            self.failures.append(
                ClusterError(
                    f"{task.title}: its process or node was lost {TRIES_AGAIN + 1} times: {reason} Finished "
                    f"work is kept. Rerun the same command to resume. Details are in {self.folder / LOG}"
                )
            )
        else:
            self.done += task.size
            if task.trains is not None:
                self.waiting.append(task.trains)
            return f"{task.title}: done"
        self.failed += task.size
        return f"{task.title}: failed, {self.failures[-1]}"

    def tell(self, *news: str) -> list[int]:
        """Send the client a SweepStanding, and return the numbers of the tasks that run.

        Raises BrokenPipeError if the client has ended.
        """
        import ray

        begun = ray.get(self.board.read.remote()) if self.pending else {}
        running = {
            number: task.size for number, task in self.pending.values() if begun.get(number) in self.nodes
        }
        standing = SweepStanding(self.done, sum(running.values()), self.failed, self.total, news)
        self.send.send(standing)
        return list(running)

    def check(self, nodes: Sequence[dict[str, Any]]) -> None:
        """Raise ClusterError if a node lacks midalign or a folder, or has other package versions."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        bases = [Path(recipe.base) for recipes in self.groups for recipe in recipes]
        folders = [base for base in dict.fromkeys(bases) if base.is_absolute()]
        inspect = ray.remote(num_cpus=0, max_retries=0)(inspect_node)
        with _tokens([self.folder, _cache()]) as tokens:
            references = []
            for node in nodes:
                on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                references.append(inspect.options(scheduling_strategy=on_node).remote(tokens, folders))
            for node, reference in zip(nodes, references, strict=True):
                name = node["NodeName"]
                try:
                    missing, packages = ray.get(reference, timeout=PATIENCE)
                except ray.exceptions.RayError as error:
                    reason = str(error).strip().splitlines()[-1]
                    raise ClusterError(
                        f"Node {name} cannot run midalign {__version__}: {reason} "
                        f"Install the same version on all nodes, for the Python that runs `ray start`"
                    ) from error
                self._require_fit(name, missing, packages)

    def _require_fit(self, name: str, missing: Sequence[Path], packages: dict[str, str]) -> None:
        if missing:
            raise ClusterError(
                f"Node {name} does not see {', '.join(map(str, missing))}. Output, cache and base must be on "
                f"storage that all nodes mount under the same path: output=FOLDER, base=FOLDER, "
                f"export MIDALIGN_CACHE=FOLDER"
            )
        self.packages = self.packages or {**packages, "midalign": __version__}
        differ = [key for key in self.packages | packages if self.packages.get(key) != packages.get(key)]
        if differ:
            versions = ", ".join(f"{key} {packages.get(key)}, not {self.packages.get(key)}" for key in differ)
            raise ClusterError(
                f"Node {name} has {versions}: scores would not compare. Install the same on all nodes"
            )

    def _failure(self) -> Exception:
        """Return one error for all failed tasks, with the message of a local run if they failed alike."""
        distinct = list({str(error): error for error in self.failures}.values())
        if len(distinct) == 1:
            return distinct[0]
        return ClusterError("\n".join([f"{len(self.failures)} tasks failed:", *map(str, distinct)]))


@contextmanager
def _tokens(folders: Sequence[Path]) -> Iterator[list[Path]]:
    """Hold a new file in each folder, for other machines to look for."""
    tokens = [folder / f".ray-{uuid.uuid4().hex}" for folder in folders]
    try:
        for token in tokens:
            cache.write_to_cache(token, b"")
        yield tokens
    finally:
        for token in tokens:
            token.unlink(missing_ok=True)


def _has_record(name: str, results: Path) -> bool:
    """Return whether a record exists. The final evaluation replaces outdated records."""
    return (results / f"{record.record_file_name(name)}{record.SUFFIX}").is_file()
