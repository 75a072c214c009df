"""Sweeps on a Ray cluster, through the front door: nodes that die, a cluster that goes, errors that travel."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from midalign import record

cluster_utils = pytest.importorskip("ray.cluster_utils")

NODE = {"object_store_memory": 100 << 20, "include_dashboard": False}
SMALL = [
    "samples_per_update=4",
    "align.pairs_per_update=4",
    "align.copy_samples=0",
    "evaluation.limit=2",
    "evaluation.languages=[en,de,tr,hi]",
    "seeds=[1]",
]
# Ray waits a minute for the head to come back; and it must not phone home.
ENVIRONMENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5", "RAY_USAGE_STATS_ENABLED": "0"}


def tree(pid: int) -> list[int]:
    """A process and all that come from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = stat.read_text().partition(" (")
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(rest.rpartition(") ")[2].split()[1]), []).append(int(number))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def processes(node: object) -> list[int]:
    """All of a node: Ray's own, and its workers."""
    return [pid for group in node.all_processes.values() for info in group for pid in tree(info.process.pid)]


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def trains(node: object) -> list[str]:
    """Names of the adapters that a node's workers train at the moment: Ray gives a process its task's name."""
    titles = []
    for pid in processes(node):
        try:
            titles.append(Path(f"/proc/{pid}/cmdline").read_text().strip("\0 "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [
        title.removeprefix("ray::").removesuffix(" trains") for title in titles if title.endswith(" trains")
    ]


@contextmanager
def cluster_of(*cpus: int) -> Iterator[object]:
    """A head that runs no tasks and nodes with so many CPUs, whose processes all end with the test."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets allow no long paths
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        head = {**NODE, "num_cpus": 0, "temp_dir": folder}
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        try:
            for count in cpus:
                cluster.add_node(num_cpus=count, **NODE)
            yield cluster
        finally:
            left = [pid for node in cluster.list_all_nodes() for pid in processes(node)]
            cluster.shutdown()
            kill(left)
            shutil.rmtree(folder, ignore_errors=True)


def sweep(grid: str, folder: Path, *more: str) -> list[str]:
    file = folder / "grid.yaml"
    file.write_text(f"name: g\nrecipe: mini\ngrid: {grid}\n")
    return [sys.executable, "-m", "midalign", "sweep", str(file), *SMALL, *more]


@contextmanager
def begun(command: list[str]) -> Iterator[subprocess.Popen]:
    """A command in a session of its own, as a terminal starts it."""
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env=os.environ | ENVIRONMENT,
    )
    try:
        yield process
    finally:
        kill(tree(process.pid))
        process.wait()


def wait_for(what: Callable[[], object], process: subprocess.Popen) -> object:
    deadline = time.monotonic() + 300
    while not (found := what()):
        assert process.poll() is None, f"it ended before it could be stopped: {process.stderr.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def scores(folder: Path) -> dict[str, dict]:
    """Records by file, without when and how long."""
    found = {}
    for path in folder.glob("*.json"):
        entry = record.read(path).model_dump(exclude={"created": True, "seconds": True})
        for task in entry["tasks"].values():
            del task["seconds"]
        if entry["adapter"]:
            del entry["adapter"]["manifest"]["seconds"]
        found[path.name] = entry
    return found


def weights(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("adapter_model.safetensors")}


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_node_is_killed_and_the_sweep_ends_as_a_local_one(tmp_path):
    grid = "{aligned: [[de], [tr]]}"
    more = ["updates=60", "save_every=2"]
    remote, local = tmp_path / "remote", tmp_path / "local"
    with cluster_of(1, 1) as cluster:
        command = sweep(grid, tmp_path, *more, f"output={remote}", "--ray", cluster.address)
        workers = cluster.worker_nodes

        def one_finished_and_one_under_way() -> tuple[object, str] | None:
            for node in workers:
                for name in trains(node):
                    recipe, _, adapter = name.partition("-aligned-")
                    recipe, adapter = (recipe, f"aligned-{adapter}") if adapter else (name[:-15], name[-14:])
                    work = remote / recipe / "adapters" / f".{adapter}.training"
                    if list(remote.glob("*/adapters/*-seed1")) and list(
                        work.glob("checkpoint-*/trainer_state.json")
                    ):
                        return node, f"{recipe}/adapters/{adapter}"
            return None

        with begun(command) as process:
            node, lost = wait_for(one_finished_and_one_under_way, process)
            kill(processes(node))
            kept = {path: path.stat().st_mtime_ns for path in remote.glob("*/adapters/*-seed1/midalign.json")}
            assert 0 < len(kept) < 3
            _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said
        assert "is lost; what ran there is done again" in said
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        assert not (remote / lost / "midalign.json") in kept

    subprocess.run(sweep(grid, tmp_path, *more, f"output={local}"), check=True, capture_output=True)
    assert len(weights(local)) == 3
    assert weights(remote) == weights(local)
    assert len(scores(local / "results")) == 4
    assert scores(remote / "results") == scores(local / "results")
    assert (remote / "results.csv").read_bytes() == (local / "results.csv").read_bytes()
    assert sorted(p.name for p in remote.iterdir()) == sorted([*(p.name for p in local.iterdir()), "ray.log"])
