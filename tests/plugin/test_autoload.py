import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

# lm-eval's own 14,000 task files cost ten seconds a TaskManager: an empty folder stands for them here.
QUICK = """
import json, sys
import lm_eval.tasks.manager as manager
manager.__file__ = {empty!r} + "/manager.py"
from lm_eval.tasks import TaskManager
"""


@pytest.fixture
def quick(tmp_path: Path) -> str:
    empty = tmp_path / "built-in"
    empty.mkdir()
    return QUICK.format(empty=str(empty))


def test_tasks_and_models_are_there_once_and_wherever_the_user_puts_them_first(
    run: Run, quick: str, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "mine.yaml").write_text(
        "task: midalign_slot_en\ndataset_path: mine\noutput_type: generate_until\n"
    )
    code = (
        quick
        + """
import importlib, lm_eval.models
from lm_eval.api.registry import model_registry as models
from midalign.tasks import tasks_dir
def where(*args, **kwargs):
    entry = TaskManager(*args, **kwargs).task_index.get("midalign_slot_en")
    return entry and str(entry.yaml_path)
result = {
    "plain": where(),
    "user": where(include_path=sys.argv[1]),
    "user, positional, several": where(None, [sys.argv[1]]),
    "without defaults": where(include_defaults=False),
    "only the user's": where(include_path=sys.argv[1], include_defaults=False),
    "ours named by the user": where(include_path=str(tasks_dir())),
    "groups": [g for g in TaskManager().all_groups if g.startswith("midalign")],
    "lazy": [models._objs[name] for name in ("midalign-hf", "midalign-vllm")],
    "built-ins": {"hf", "vllm", "dummy"} <= set(models),
    "heavy": [m for m in ("midalign.evaluate.hf", "vllm") if m in sys.modules],
}
once = TaskManager.__init__
importlib.reload(lm_eval.tasks); importlib.reload(lm_eval.models)
result["once"] = TaskManager.__init__ is once
import midalign_lm_eval.autoload as autoload
autoload.install()
result["finders"] = sum(isinstance(f, autoload.LmEvalFinder) for f in sys.meta_path)
print(json.dumps(result))
"""
    )
    done = run("-c", code, str(mine))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    ours = str(Path("slot", "slot", "midalign_slot_en.yaml"))
    theirs = str(mine / "mine.yaml")
    assert result["plain"].endswith(ours)
    assert result["user"] == result["user, positional, several"] == result["only the user's"] == theirs
    assert result["without defaults"] is None
    assert result["ours named by the user"].endswith(ours)
    assert {"midalign_slot", "midalign_slot_bare", "midalign_mini_slot"} <= set(result["groups"])
    assert result["lazy"] == ["midalign.evaluate.hf:MidalignHF", "midalign.evaluate.vllm:MidalignVLLM"]
    assert result["built-ins"]
    assert result["heavy"] == []
    assert result["once"]
    assert result["finders"] == 1
    # The user's own task over ours is lm-eval's to report; ours never over ours.
    assert "slot/slot/midalign_slot_de.yaml overrides" not in done.stderr


def test_names_that_entry_points_brought_first_are_left_alone(run: Run) -> None:
    code = """
from lm_eval.api.registry import model_registry as models
from importlib.metadata import EntryPoint
import midalign_lm_eval.hooks as hooks
points = {n: EntryPoint(n, t, "lm_eval.models") for n, t in hooks.MODELS.items()}
for name, point in points.items():
    models.register(name, target=point)
import lm_eval.models
assert {n: models._objs[n] for n in points} == points, models._objs
"""
    done = run("-W", "error::UserWarning", "-c", code)
    assert done.returncode == 0, done.stderr
    assert "could not hook" not in done.stderr


def test_entry_points_in_pyproject_name_what_the_plugin_registers() -> None:
    from midalign_lm_eval.hooks import MODELS

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["entry-points"] == {"lm_eval.models": MODELS}


def test_switched_off(run: Run, quick: str) -> None:
    code = (
        quick
        + """
import lm_eval.models
from lm_eval.api.registry import model_registry as models
print(TaskManager().all_tasks, "midalign-hf" in models, "midalign_lm_eval.hooks" in sys.modules)
"""
    )
    done = run("-c", code, MIDALIGN_NO_AUTOLOAD="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[] False False"


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        ("import sys; sys.modules['midalign_lm_eval.hooks'] = None", "midalign_lm_eval.hooks"),
        ("import sys; sys.modules['midalign.tasks'] = None", "midalign.tasks"),
        (
            "import midalign.tasks as t, midalign.errors as e\n"
            "def gone(): raise e.MidalignError('no task files')\nt.tasks_dir = gone",
            "no task files",
        ),
    ],
)
def test_a_broken_plugin_only_warns(run: Run, quick: str, break_it: str, said: str) -> None:
    done = run("-c", f"{break_it}\n{quick}\nimport lm_eval.models\nprint(TaskManager().all_tasks)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert said in done.stderr


def test_start_up_imports_only_what_every_interpreter_has(run: Run) -> None:
    code = "import sys; print(sorted(m for m in sys.modules))"
    with_it = set(json.loads(run("-c", code).stdout.replace("'", '"')))
    without = set(json.loads(run("-S", "-c", code).stdout.replace("'", '"')))
    site = {"site", "sitecustomize", "usercustomize", "_sitebuiltins"}
    new = {m for m in with_it - without - site if not m.startswith(("encodings", "_virtualenv"))}
    plain = {
        "os",
        "stat",
        "_stat",
        "posixpath",
        "genericpath",
        "os.path",
        "_collections_abc",
        "io",
        "abc",
        "_abc",
    }
    assert "midalign_lm_eval.autoload" in new
    assert new - plain - set(sys.builtin_module_names) <= {"midalign_lm_eval", "midalign_lm_eval.autoload"}


def test_the_loader_stays_the_real_one(run: Run) -> None:
    code = """
import inspect, importlib.util, lm_eval.tasks
assert type(lm_eval.tasks.__loader__).__name__ == "SourceFileLoader"
assert "class" in inspect.getsource(lm_eval.tasks) or inspect.getsource(lm_eval.tasks)
assert importlib.util.find_spec("lm_eval.models") is not None
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr


def test_other_finders_are_asked_and_may_ask_in_turn(run: Run, quick: str) -> None:
    """An editable lm_eval is found by a finder of its own; another plug-in may do as ours does."""
    code = """
import sys
from importlib.util import spec_from_file_location
import lm_eval

class Asks:
    def find_spec(self, name, path=None, target=None):
        if name == "lm_eval.tasks":
            finders = [f for f in sys.meta_path if f is not self and hasattr(f, "find_spec")]
            return next(filter(None, (f.find_spec(name, path, target) for f in finders)), None)

class Old:  # skipped by Python 3.12, for want of find_spec
    def find_module(self, name, path=None):
        return None

class Editable:
    found = []
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "lm_eval.tasks":
            cls.found.append(name)
            folder = lm_eval.__path__[0] + "/tasks"
            return spec_from_file_location(name, folder + "/__init__.py", submodule_search_locations=[folder])

sys.meta_path[:1] = [Old(), Asks(), sys.meta_path[0], Editable]
import lm_eval.tasks
assert Editable.found
"""
    done = run("-c", f"{code}\n{quick}\nprint('midalign_slot_en' in TaskManager().all_tasks)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True"
    assert "could not hook" not in done.stderr


@pytest.mark.slow
def test_lm_eval_lists_our_tasks(run: Run) -> None:
    done = run("-m", "lm_eval", "ls", "tasks")
    assert done.returncode == 0, done.stderr
    listed = {line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")}
    assert {"midalign_slot", "midalign_slot_en", "midalign_slot_zh_tw", "midalign_mini_slot_ja"} <= listed
    assert "hellaswag" in listed


# An environment without vLLM, and lm-eval's command line in it.
WITHOUT_VLLM = """
import importlib.machinery as machinery
find = machinery.PathFinder.find_spec
machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None:
    None if name.partition(".")[0] == "vllm" else find(name, path, target)
)
sys.argv = ["lm_eval", "run", "--model", "midalign-vllm", "--model_args", "pretrained=x"]
sys.argv += ["--tasks", "midalign_mini_slot_en"]
from lm_eval.__main__ import cli_evaluate
cli_evaluate()
"""


def test_without_vllm_lm_eval_says_in_one_line_what_to_type(run: Run, quick: str) -> None:
    done = run("-c", quick + WITHOUT_VLLM)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("midalign: vLLM is not installed here.")
    assert "pip install 'midalign[vllm]'" in last


def test_evaluate_says_what_other_models_change(run: Run) -> None:
    code = (
        "import lm_eval, lm_eval.evaluator as evaluator; first = lm_eval.evaluate; "
        "import importlib; importlib.reload(evaluator); "
        "print(hasattr(first, 'midalign'), hasattr(evaluator.evaluate, 'midalign'))"
    )
    done = run("-c", code)
    assert done.stdout.split() == ["True", "True"], done.stderr
