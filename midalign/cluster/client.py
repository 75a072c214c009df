"""Start a sweep on a Ray cluster and follow it."""

import multiprocessing
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from midalign import bases
from midalign.cluster.driver import LOG, PATIENCE, SweepStanding, cluster_lost, drive
from midalign.errors import ClusterError
from midalign.sweep.points import Point
from midalign.train.recipe import Recipe

ReportStanding = Callable[[SweepStanding], None]


def sweep_on_cluster(
    address: str,
    alike: Sequence[Sequence[Recipe]],
    points: Sequence[Point],
    folder: Path,
    report: ReportStanding,
) -> None:
    """Train all arms and seeds of the recipes and write records to `folder/results`, as a local sweep does.

    Args:
        address: host:port as `ray start --head` prints it if this machine is a node of the cluster,
            ray://host:port otherwise, or `auto` for the cluster that runs on this machine.
        alike: the recipes, in groups that share one evaluation.
        points: the points of the sweep.
        folder: the sweep's folder, visible to all nodes.
        report: called with the progress every second.

    If a task fails, the others still finish, and then its error is raised.

    Raises:
        ClusterError: Ray is missing, nothing answers, a node lacks a folder or package, or the cluster goes
            away.
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
    driver = processes.Process(target=drive, args=(send, address, groups, points, folder), daemon=True)
    driver.start()
    send.close()
    try:
        if not receive.poll(PATIENCE):
            raise ClusterError(
                f"No response from {address} within {PATIENCE} s: not a Ray cluster, or the connection was "
                f"refused. Use the address that `ray start --head` printed. Ray's output is in {folder / LOG}"
            )
        while (message := receive.recv()) is not None:
            if isinstance(message, BaseException):
                raise message
            report(message)
        driver.join(10)
    except EOFError as error:
        raise cluster_lost(address, folder) from error
    finally:
        driver.terminate()  # Ray then cancels its tasks on all nodes
        driver.join(10)
        driver.kill()


def _check_answers(address: str) -> None:
    """Raise ClusterError if nothing listens at the address. Ray itself would retry for minutes."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdecimal()):
        raise ClusterError(
            f"--ray {address}: expected HOST:PORT as `ray start --head` prints it (on a node), "
            f"ray://HOST:PORT (from outside), or auto for the cluster that runs on this machine"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"Nothing answers at {address} ({error}). Start a cluster with `ray start --head --port {port}` "
            f"and add nodes with `ray start --address={host}:{port}`, or use the address that it printed"
        ) from error


def _absolute(recipe: Recipe) -> Recipe:
    """Return the recipe with absolute paths, for processes in other folders. Its digest stays the same."""
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
