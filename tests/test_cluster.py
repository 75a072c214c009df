"""Sweeps on a Ray cluster, through the front door: a node dies, the cluster goes, errors travel."""

import os
import re
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
from unittest.mock import Mock

import pytest

from midalign import record
from midalign.cluster import client, driver
from midalign.cluster.node import generate_answers, inspect_node
from midalign.errors import ClusterError
from midalign.train.recipe import load_recipe
from midalign.train.run import training_runs

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
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}  # Ray must not phone home
IMPATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "15"}  # a driver gives a lost head a minute otherwise


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


def trains(node: object, folder: Path) -> list[Path]:
    """Adapters that a node's workers train at the moment: Ray gives a process the name of its task."""
    titles = []
    for pid in processes(node):
        try:
            titles.append(Path(f"/proc/{pid}/cmdline").read_text().strip("\0 "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    names = [re.fullmatch(r"ray::(g(?:-aligned=..)?)-(.*-seed1) trains", title) for title in titles]
    return [folder / found[1] / "adapters" / found[2] for found in names if found]


def checkpoints(adapter: Path) -> list[Path]:
    return list(adapter.with_name(f".{adapter.name}.training").glob("checkpoint-*/files.json"))


def manifests(folder: Path) -> dict[Path, int]:
    """Of finished adapters, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/adapters/[!.]*/midalign.json")}


@contextmanager
def cluster_of(*cpus: int) -> Iterator[object]:
    """A head that runs no tasks and nodes with so many CPUs, whose processes all end with the test."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets allow no long paths
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # Ray notes the address there, and wants it there
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        head = {**NODE, "num_cpus": 0, "temp_dir": folder}
        nodes = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        try:
            for count in cpus:
                nodes.add_node(num_cpus=count, **NODE)
            yield nodes
        finally:
            left = [pid for node in nodes.list_all_nodes() for pid in processes(node)]
            nodes.shutdown()
            kill(left)
            shutil.rmtree(folder, ignore_errors=True)


def sweep(grid: str, folder: Path, *more: str) -> list[str]:
    file = folder / "grid.yaml"
    file.write_text(f"name: g\nrecipe: mini\ngrid: {grid}\n")
    return [sys.executable, "-m", "midalign", "sweep", str(file), *SMALL, *more]


@contextmanager
def begun(command: list[str], environment: dict[str, str] = QUIET) -> Iterator[subprocess.Popen]:
    """A command in a session of its own, as a terminal starts it."""
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env=os.environ | environment,
    )
    try:
        yield process
    finally:
        kill(tree(process.pid))
        process.wait()


def wait_for(what: Callable[[], object], process: subprocess.Popen) -> object:
    deadline = time.monotonic() + 900
    while not (found := what()):
        assert process.poll() is None, f"it ended before it could be stopped: {process.stderr.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def scores(folder: Path) -> dict[str, dict]:
    """Records by file, without when and how long, and without the digests of an adapter's files and what is
    made of them: peft writes `target_modules` in another order in every process."""
    found = {}
    for path in (folder / "results").glob("*.json"):
        entry = record.read_record(path).model_dump(exclude={"created", "seconds", "run"})
        for task in entry["tasks"].values():
            del task["seconds"]
        if entry["adapter"]:
            manifest = entry["adapter"]["manifest"]
            del manifest["seconds"], entry["adapter"]["digest"]
            for parent in manifest["parents"] or ():
                del parent["digest"]
        found[path.name] = entry
    return found


def weights(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("adapter_model.safetensors")}


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_node_is_killed_and_the_sweep_ends_as_a_local_one(tmp_path):
    more = ["updates=30", "save_every=1"]
    grid = "{aligned: [[de], [tr]]}\nmerged: [0.5]"
    remote, local = tmp_path / "remote", tmp_path / "local"
    with cluster_of(1, 1) as nodes:
        command = sweep(grid, tmp_path, *more, f"output={remote}", "--ray", nodes.address)

        def one_is_finished_and_one_under_way() -> tuple[object, Path] | None:
            if not manifests(remote):
                return None
            under_way = [(node, adapter) for node in nodes.worker_nodes for adapter in trains(node, remote)]
            return next((found for found in under_way if checkpoints(found[1])), None)

        with begun(command) as process:
            node, lost = wait_for(one_is_finished_and_one_under_way, process)
            kill(processes(node))
            kept = manifests(remote)
            assert lost not in {path.parent for path in kept}
            _, said = process.communicate(timeout=1800)
        assert process.returncode == 0, said
    assert "is lost. Its tasks will be repeated on other nodes" in said
    # The node that is left answers with one engine for several adapters.
    assert len(re.findall(r"^g\S*-seed1(?: and \d more)? answers: done", said, re.M)) in (1, 2)
    assert len(manifests(remote)) == 4
    assert kept.items() <= manifests(remote).items()

    subprocess.run(sweep(grid, tmp_path, *more, f"output={local}"), check=True, capture_output=True)
    assert weights(remote) == weights(local)
    assert len(scores(local)) == 4
    assert scores(remote) == scores(local)
    assert (remote / "results.csv").read_bytes() == (local / "results.csv").read_bytes()
    assert sorted(p.name for p in remote.iterdir()) == sorted(["ray.log", *(p.name for p in local.iterdir())])


@pytest.mark.exhaustive
@pytest.mark.slow
def test_errors_ctrl_c_and_the_cluster_s_end_reach_the_terminal(tmp_path):
    with cluster_of(2) as nodes:
        out = tmp_path / "wrong"
        command = sweep("{align.layer: [40]}", tmp_path, "updates=2", f"output={out}", "--ray", nodes.address)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        message = done.stderr[done.stderr.index("midalign: ") :]
        assert message.startswith("midalign: recipe g: align.layer: ")
        assert message.count("\n") == 1
        # The others went on.
        assert [path.parent.name for path in manifests(out)] == ["baseline-seed1"]

        long = ["updates=5000", f"output={tmp_path / 'long'}", "--ray", nodes.address]
        command = sweep("{align.weight: [0.5]}", tmp_path, *long)
        with begun(command) as process:
            (node,) = nodes.worker_nodes
            (adapter, *_) = wait_for(lambda: trains(node, tmp_path / "long"), process)
            os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=300)
            assert process.returncode == 130
            assert "midalign: interrupted. Finished work is kept" in said
            assert "Traceback" not in said
            ended = time.monotonic() + 60
            while trains(node, tmp_path / "long"):
                assert time.monotonic() < ended, f"{adapter} trains on"
                time.sleep(0.1)

        with begun(command, QUIET | IMPATIENT) as process:
            wait_for(lambda: trains(node, tmp_path / "long"), process)
            kill([pid for one in nodes.list_all_nodes() for pid in processes(one)])
            _, said = process.communicate(timeout=300)
            assert process.returncode == 1
            assert f"midalign: The Ray cluster at {nodes.address} went away. Finished work is kept" in said
            assert "rerun the same command to resume" in said
            assert "Traceback" not in said


@pytest.mark.parametrize(
    ("devices", "engines"),
    [
        # A device trains all and then answers for all.
        ([{"CPU": 1}], [7]),
        # The first device that no run waits for does not wait for the others.
        ([{"CPU": 1}, {"CPU": 2}], [3, 3, 1]),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 8}], [4, 3]),
        ([{"CPU": 16}], [1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_adapters_of_a_base_share_the_engine_of_a_device(tmp_path, monkeypatch, devices, engines):
    import ray

    grid = ["arms={baseline: null, aligned: {}, other: {weight: 2}}", "aligned=[de]"]
    recipes = [
        load_recipe("mini", [*grid, "seeds=[1, 2]", f"output={tmp_path / 'a'}"]),
        load_recipe("mini", ["arms={baseline: null}", "seeds=[1]", f"output={tmp_path / 'b'}"]),
    ]
    cluster = driver.ClusterSweep(
        Mock(), [recipes], [], tmp_path, nodes={str(i): {"Resources": has} for i, has in enumerate(devices)}
    )
    cluster.gpus = int("GPU" in devices[0])
    room = sum(has.get("GPU", 0) if cluster.gpus else has["CPU"] for has in devices)
    submitted, begun = [], {}

    def submit(task: driver.ClusterTask) -> None:
        submitted.append(task)
        cluster.pending[cluster.begun] = cluster.begun, task
        cluster.begun += 1

    def wait(pending: list[int], timeout: float) -> tuple[list[int], list[int]]:
        """Run the oldest tasks, as many as there is room for, until the oldest is done."""
        begun.update(dict.fromkeys(sorted(pending)[:room], "0"))
        return sorted(pending)[:1], []

    monkeypatch.setattr(cluster, "submit", submit)
    monkeypatch.setattr(cluster, "watch", lambda: [])
    cluster.board = Mock(**{"read.remote.return_value": begun})
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    monkeypatch.setattr(ray, "wait", wait)
    first, last = cluster.plan()
    for task in first:
        submit(task)
    cluster.wait()
    answers = [task.arguments[0].adapters for task in submitted[len(first) :]]
    assert [len(folders) for folders in answers] == engines
    trained = [folder for recipe in recipes for _, _, folder in training_runs(recipe)]
    assert sorted(folder for folders in answers for folder in folders) == sorted(trained)
    (base, *_) = [task for task in first if task.function is generate_answers]
    assert base.arguments[0].adapters == ()
    assert cluster.done == len(first) + len(trained) == 7 + 1 + 7
    assert len(last) == 1


def test_files_of_a_recipe_are_found_from_other_folders(tmp_path, monkeypatch):
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "de.tsv").write_text("eins\tone\n")
    monkeypatch.chdir(tmp_path)
    arms = 'arms={baseline: null, aligned: {}, other: {pairs: "pairs/{language}.tsv"}, far: {pairs: tatoeba}}'
    given = load_recipe("mini", ["align.pairs=pairs/{language}.tsv", "aligned=[de]", arms, "output=out"])
    known = {arm: given.digest(arm) for arm in given.arms}
    sent = client._absolute(given)
    monkeypatch.chdir("/")
    assert {arm: sent.digest(arm) for arm in sent.arms} == known
    assert sent.output == tmp_path / "out"


def test_where_nothing_answers_it_says_so_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    message = refused(sweep("{align.layer: [1]}", tmp_path, f"output={tmp_path / 'out'}", "--ray", address))
    assert message.startswith(f"midalign: Nothing answers at {address} (")
    assert "ray start --head" in message
    message = refused(sweep("{align.layer: [1]}", tmp_path, f"output={tmp_path / 'out'}", "--ray", "cluster"))
    assert message.startswith("midalign: --ray cluster: expected HOST:PORT")
    assert not (tmp_path / "out").exists()


def test_without_ray_it_says_what_to_install(tmp_path):
    arguments = sweep("{align.layer: [1]}", tmp_path, f"output={tmp_path / 'out'}", "--ray", "auto")[2:]
    hidden = f"import sys; sys.modules['ray'] = None; sys.argv[:] = {arguments}"
    hidden += "; from midalign.cli import main; main()"
    assert 'not installed: pip install "midalign[ray]"' in refused([sys.executable, "-c", hidden])


def test_a_node_that_sees_or_has_something_else_is_named(tmp_path):
    """One machine has no two views of its disk: what a node looks at, and what is said of it."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "token").touch()
    tokens = [tmp_path / "shared" / "token", tmp_path / "alone" / "token"]
    missing, packages = inspect_node(tokens, [tmp_path / "base"])
    nodes = driver.ClusterSweep(None, [], [], tmp_path)
    with pytest.raises(ClusterError, match=r"Node one does not see \S+/alone, \S+/base\. .* output=FOLDER"):
        nodes._require_fit("one", missing, packages)
    nodes._require_fit("one", [], packages)
    nodes._require_fit("two", [], packages)
    with pytest.raises(ClusterError, match=r"Node three has torch 1\.0, not \d.* would not compare"):
        nodes._require_fit("three", [], packages | {"torch": "1.0"})


def refused(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr[done.stderr.index("midalign: ") :]
