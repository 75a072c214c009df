"""A sweep's runs and evaluations as tasks of a Ray cluster.

Ray ends the process that speaks with a cluster, without a word to Python, once the cluster is gone. So that
is a process of its own, the driver, which tells this one where the sweep stands.

All nodes see the same output folder: a task whose node dies is done again elsewhere by Ray, and finds there
what was kept, checkpoints of a run and finished languages of an evaluation.
"""

import multiprocessing
import os
import signal
import socket
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from midalign import __version__, adapter, bases, record
from midalign.data import cache
from midalign.errors import ClusterError, MidalignError
from midalign.evaluate import run as evaluation
from midalign.evaluate.settings import EvalSettings
from midalign.sweep.point_adapters import adapters_to_score
from midalign.sweep.points import ALONE, Point
from midalign.train.evaluation_command import evaluated_tasks
from midalign.train.recipe import Recipe
from midalign.train.run import is_trained, train_recipe, training_runs

LOG = "ray.log"
"""In the sweep's folder, what Ray and the processes on its nodes say."""

PATIENCE = 60
"""Seconds until a cluster has let us in, and until every node has looked for our folders."""

TRIES_AGAIN = 3
"""Times that a task is begun once more after its process or node died: Ray's own default."""

ENVIRONMENT = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
"""Switches that hold on the nodes as they do here."""


@dataclass(frozen=True)
class Standing:
    """Where a sweep on a cluster stands, told every second: runs, evaluations, and what is new."""

    done: int
    running: int
    failed: int
    total: int
    news: tuple[str, ...] = ()


Report = Callable[[Standing], None]


def sweep(
    address: str, alike: Sequence[Sequence[Recipe]], points: Sequence[Point], folder: Path, report: Report
) -> None:
    """Train all arms and seeds of the recipes and write records to `folder/results`, as a local sweep does.

    Args:
        address: host:port as `ray start --head` prints it, on a node of the cluster; ray://host:port
            elsewhere; `auto` for the cluster that this machine is a node of.
        alike: recipes of the points, by what one evaluation has for all its adapters.

    A task that fails leaves the others running. Raises what it raised once they are finished, and
    ClusterError where Ray is missing, nothing answers, a node does not see what this machine sees, or the
    cluster goes away.
    """
    if find_spec("ray") is None:
        raise ClusterError('--ray needs Ray, which is not installed: pip install "midalign[ray]"')
    _check_answers(address)
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    groups = [[_absolute(recipe) for recipe in recipes] for recipes in alike]
    points = [replace(p, recipe=_absolute(p.recipe), against=_absolute(p.against)) for p in points]
    processes = multiprocessing.get_context("spawn")
    receive, send = processes.Pipe(duplex=False)
    driver = processes.Process(target=_drive, args=(send, address, groups, points, folder), daemon=True)
    driver.start()
    send.close()
    try:
        if not receive.poll(PATIENCE):
            raise ClusterError(
                f"What answers at {address} is no Ray cluster, or lets nobody in: {PATIENCE} s without a "
                f"word. Its address is what `ray start --head` printed; what Ray said is in {folder / LOG}"
            )
        while (said := receive.recv()) is not None:
            if isinstance(said, BaseException):
                raise said
            report(said)
        driver.join(10)
    except EOFError:
        raise _gone(address, folder) from None
    finally:
        driver.terminate()  # with it end its tasks, wherever they are
        driver.join(10)
        driver.kill()


def _gone(address: str, folder: Path) -> ClusterError:
    return ClusterError(
        f"The Ray cluster at {address} went away. What is finished stays: once the cluster is back, give "
        f"the same command again. What Ray said is in {folder / LOG}"
    )


def _check_answers(address: str) -> None:
    """Raise ClusterError where nobody listens: Ray itself would try for minutes."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise ClusterError(
            f"--ray {address}: expected HOST:PORT as `ray start --head` prints it, on a node of the cluster; "
            f"ray://HOST:PORT from outside; or auto for the cluster that runs here"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"Nothing answers at {address} ({error}). Start a cluster, ray start --head --port {port}, and "
            f"further nodes with ray start --address={host}:{port}; or give the address that it printed"
        ) from None


def _absolute(recipe: Recipe) -> Recipe:
    """Make the recipe's paths absolute, for processes in other folders. Its digest stays the same."""
    bases.resolve(recipe.base)
    is_folder = recipe.base not in bases.NAMES and Path(recipe.base).expanduser().is_dir()
    base = str(Path(recipe.base).expanduser().absolute()) if is_folder else recipe.base
    align = recipe.align.model_copy(update={"pairs": _absolute_pairs(recipe.align.pairs)})
    arms = {
        arm: {**changes, "pairs": _absolute_pairs(changes["pairs"])}
        if changes and "pairs" in changes
        else changes
        for arm, changes in recipe.arms.items()
    }
    absolute = {"output": recipe.output.absolute(), "base": base, "align": align, "arms": arms}
    return recipe.model_copy(update=absolute)


def _absolute_pairs(source: str) -> str:
    return str(Path(source).absolute()) if "{language}" in source else source


def _drive(
    send: Connection, address: str, groups: list[list[Recipe]], points: list[Point], folder: Path
) -> None:
    """Run the driver's process. Sends a Standing every second, and finally None or an exception."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that shows the sweep ends this one
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    try:
        with _connected(address):
            _Sweep(send, groups, points, folder).run()
        send.send(None)
    except BrokenPipeError:
        return  # nobody is there to see it
    except ConnectionError:  # of Ray, from outside of the cluster
        send.send(_gone(address, folder))
    except (MidalignError, OSError) as error:
        send.send(error)
    except Exception as error:
        of_ray = type(error).__module__.partition(".")[0] == "ray"
        send.send(_gone(address, folder) if of_ray else RuntimeError(traceback.format_exc()))


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connect to Ray for the duration of the sweep."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    # Read when torch and tqdm are imported. Threads are Ray's choice: as many as a task has CPUs, one.
    variables = {"OMP_WAIT_POLICY": "passive", "TQDM_DISABLE": "1", "MIDALIGN_CACHE": str(_cache())}
    variables |= {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    try:
        ray.init(address, runtime_env={"env_vars": variables})
    except Exception as error:  # versions that differ, a machine outside of the cluster, and a dozen others
        raise ClusterError(
            f"Ray at {address} does not let this machine in: {' '.join(str(error).split())[:600]} "
            f"From outside of the cluster: --ray ray://HOST:10001, or make this machine a node of it first"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _cache() -> Path:
    return cache.folder().absolute()


@dataclass(frozen=True)
class _Task:
    """A function of this module, to run once in a process of its own, and what comes after it."""

    title: str
    function: Callable[..., None]
    arguments: tuple[Any, ...]
    then: "_Task | None" = None


def _train(recipe: Recipe, arm: str, seed: int) -> None:
    """Train one adapter.

    Its folder and checkpoints are its own, and caches appear atomically, so other runs may train at the same
    time. Ray restarts it only if it considers the first process dead, which then ends with its node.
    """
    train_recipe(recipe.model_copy(update={"seeds": [seed]}), lambda _: None, [arm])


def _answer(settings: EvalSettings) -> None:
    evaluation.answer_ahead(settings, lambda _: None)


def _evaluate(recipes: Sequence[Recipe], points: Sequence[Point], results: Path) -> None:
    """Score adapters, and also generate for merged points, whose parents now exist. There are few of them."""
    adapters = [folder for recipe in recipes for folder in adapters_to_score(recipe, points)]
    evaluation.evaluate(_settings(recipes[0], adapters, results), lambda _: None)


def _begin(
    board: Any, number: int, folder: str, function: Callable[..., None], arguments: Sequence[Any]
) -> None:
    """Run a task on its node."""
    import ray

    board.begin.remote(number, ray.get_runtime_context().get_node_id())
    if os.path.isdir(folder):
        os.chdir(folder)  # what relative paths in recipes stand for
    function(*arguments)


class _Board:
    """An actor beside the driver: the tasks that have begun, and on which node."""

    def __init__(self) -> None:
        self.nodes: dict[int, str] = {}

    def begin(self, number: int, node: str) -> None:
        self.nodes[number] = node

    def read(self) -> dict[int, str]:
        return self.nodes


def _look(tokens: Sequence[Path], folders: Sequence[Path]) -> tuple[list[Path], dict[str, str]]:
    """Return the files and bases that a node cannot see, and the versions of its packages."""
    missing = [token.parent for token in tokens if not token.is_file()]
    missing += [folder for folder in folders if not (folder / "config.json").is_file()]
    return missing, adapter.package_versions()


@dataclass
class _Sweep:
    """The driver's side of a sweep."""

    send: Connection
    groups: Sequence[Sequence[Recipe]]
    points: Sequence[Point]
    folder: Path
    pending: dict[Any, tuple[int, _Task]] = field(default_factory=dict)
    """Tasks by what Ray gives for them, numbered."""
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Those alive by Ray's id, as Ray describes them."""
    packages: dict[str, str] = field(default_factory=dict)
    """Versions on the first node that was looked at."""
    begun: int = 0
    done: int = 0
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
            raise ClusterError("No node of the Ray cluster has a GPU or a CPU to give: ray status")
        self.board = ray.remote(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy=NodeAffinitySchedulingStrategy(self.here, soft=False),
        )(_Board).remote()
        # A fresh process each: one that has trained keeps memory for every batch shape it has seen.
        self.begin = ray.remote(num_cpus=1, num_gpus=self.gpus, max_calls=1, max_retries=TRIES_AGAIN)(_begin)
        first, last = self.plan()
        self.total = len(last) + sum(1 + (task.then is not None) for task in first)
        for task in first:
            self.submit(task)
        self.wait()
        for task in last:  # one after another: each tidies up where others would write
            if not self.failures:
                self.submit(task)
                self.wait()
        if self.failures:
            raise self._failure()

    def _takes_tasks(self, node: dict[str, Any]) -> bool:
        return bool(node["Resources"].get("GPU", 0) >= self.gpus and node["Resources"].get("CPU", 0) >= 1)

    def plan(self) -> tuple[list[_Task], list[_Task]]:
        """Return the tasks that may run at once, and those that run after all of them.

        Each adapter generates its answers as soon as it is trained, alone: loading the base again costs
        seconds, while waiting for the longest run would leave devices idle. Whatever concerns all adapters
        together (the layers that retrieval is measured at, the base's roles) is left to one final evaluation,
        which finds these answers and writes the records of a local sweep.
        """
        results = self.folder / "results"
        first, last = [], []
        for recipes in self.groups:
            for recipe in recipes:
                for arm, seed, folder in training_runs(recipe):
                    name = f"{recipe.name}-{arm}-seed{seed}"
                    answer = _Task(f"{name} answers", _answer, (_settings(recipe, [folder], results),))
                    if not is_trained(folder, recipe, arm):
                        then = answer if arm != ALONE else None
                        first.append(_Task(f"{name} trains", _train, (recipe, arm, seed), then))
                    elif arm != ALONE and not _has_record(name, results):
                        first.append(answer)
            recipe = recipes[0]
            if recipe.evaluation.base and not _has_record(recipe.base_name, results):
                settings = _settings(recipe, [], results)
                first.append(_Task(f"{recipe.base_name} answers", _answer, (settings,)))
            last.append(_Task("records", _evaluate, (recipes, self.points, results)))
        return first, last

    def submit(self, task: _Task) -> None:
        begin = self.begin.options(name=task.title)  # which its process shows, and Ray's dashboard
        reference = begin.remote(self.board, self.begun, str(Path.cwd()), task.function, task.arguments)
        self.pending[reference] = self.begun, task
        self.begun += 1

    def wait(self) -> None:
        """Wait until no task is pending, including follow-up tasks."""
        import ray

        while self.pending:
            ready, _ = ray.wait(list(self.pending), timeout=1)
            news = self.watch()
            self.tell(*news, *[self.settle(reference) for reference in ready])

    def watch(self) -> list[str]:
        """Take note of the nodes that have gone, and check those that are new."""
        import ray

        before, self.nodes = self.nodes, {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        if self.here not in self.nodes:
            raise ray.exceptions.LocalRayletDiedError
        new = [node for name, node in self.nodes.items() if name not in before and self._takes_tasks(node)]
        if new:
            self.check(new)
        return [
            f"node {before[lost]['NodeName']} is lost; what ran there is done again"
            for lost in before.keys() - self.nodes.keys()
        ]

    def settle(self, reference: Any) -> str:
        """Take note of a task's end, and begin what follows it."""
        import ray

        _, task = self.pending.pop(reference)
        try:
            ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            known = isinstance(cause, MidalignError | OSError)
            self.failures.append(cause if known else ClusterError(f"{task.title}: {error}"))
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            self.failures.append(
                ClusterError(
                    f"{task.title}: its process or node was lost {TRIES_AGAIN + 1} times: {reason} What is "
                    f"finished stays, the same command goes on from there; more is in {self.folder / LOG}"
                )
            )
        else:
            self.done += 1
            if task.then is not None:
                self.submit(task.then)
            return f"{task.title}: done"
        return f"{task.title}: failed, {self.failures[-1]}"

    def tell(self, *news: str) -> None:
        """Say where the sweep stands; raises BrokenPipeError where nobody listens any more."""
        import ray

        begun = ray.get(self.board.read.remote()) if self.pending else {}
        numbers = {number for number, _ in self.pending.values()}
        running = sum(number in numbers and node in self.nodes for number, node in begun.items())
        self.send.send(Standing(self.done, running, len(self.failures), self.total, news))

    def check(self, nodes: Sequence[dict[str, Any]]) -> None:
        """Raise ClusterError where a node lacks our package or folders, or differs from the others."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        own = [Path(recipe.base) for recipes in self.groups for recipe in recipes]
        folders = [base for base in dict.fromkeys(own) if base.is_absolute()]
        look = ray.remote(num_cpus=0, max_retries=0)(_look)
        with _tokens([self.folder, _cache()]) as tokens:
            looks = []
            for node in nodes:
                there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                looks.append(look.options(scheduling_strategy=there).remote(tokens, folders))
            for node, reference in zip(nodes, looks, strict=True):
                name = node["NodeName"]
                try:
                    missing, packages = ray.get(reference, timeout=PATIENCE)
                except ray.exceptions.RayError as error:
                    reason = str(error).strip().splitlines()[-1]
                    raise ClusterError(
                        f"Node {name} cannot run midalign {__version__}: {reason} "
                        f"Install the same on all nodes, for the Python that runs `ray start`"
                    ) from None
                self._fits(name, missing, packages)

    def _fits(self, name: str, missing: Sequence[Path], packages: dict[str, str]) -> None:
        if missing:
            raise ClusterError(
                f"Node {name} does not see {', '.join(map(str, missing))}. Output, cache and base must be on "
                f"storage that all nodes see under the same path: output=FOLDER, base=FOLDER, "
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
    """Create a file in each folder, for other machines to look for."""
    tokens = [folder / f".ray-{uuid.uuid4().hex}" for folder in folders]
    try:
        for token in tokens:
            cache.write(token, b"")
        yield tokens
    finally:
        for token in tokens:
            token.unlink(missing_ok=True)


def _has_record(name: str, results: Path) -> bool:
    """Return whether a record exists. Outdated records are made again with the others."""
    return (results / f"{record.record_file_name(name)}{record.SUFFIX}").is_file()


def _settings(recipe: Recipe, adapters: Sequence[Path], results: Path) -> EvalSettings:
    """Return the settings of the evaluation that `midalign sweep` runs."""
    asked = recipe.evaluation
    return EvalSettings(
        base=recipe.base,
        tasks=tuple(evaluated_tasks(recipe)),
        output=results,
        adapters=tuple(adapters),
        adapters_only=bool(adapters) and not asked.base,
        engine=asked.engine,
        split=asked.split,
        limit=asked.limit,
        note=asked.note or "",
        apply_chat_template=recipe.chat_template,
        system_instruction=recipe.system_instruction,
    )
