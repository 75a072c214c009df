"""Examples, run as a reader runs them: as programs, in an empty folder."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import midalign

EXAMPLES = Path(__file__).parents[1] / "examples"
PROOF = {
    "score_a_model": "slot F1",
    "train_and_compare": "aligned, all: ",
    "own_data": "_de ",
    "analyse_layers": "In a recipe: align.layer=",
    "merge_adapters": "rank 32, ",
    "use_in_transformers": "Answer: ",
    "use_in_vllm": "Answer: ",
}
"""What the last lines of an example's output contain."""


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sorted(PROOF))
def test_an_example_runs_as_it_stands(name, tmp_path):
    if name == "use_in_vllm" and find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: make setup-dev")
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert PROOF[name] in done.stdout


def test_every_example_is_tested_and_listed():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    assert scripts == set(PROOF)
    readme = (EXAMPLES / "README.md").read_text("utf-8")
    assert all(f"[{name}.py]({name}.py)" in readme for name in scripts)


def test_entry_points_are_what_their_modules_define_and_load_nothing_heavy_before_use():
    for name, module in midalign.ENTRY_POINTS.items():
        assert getattr(midalign, name).__module__ == module
    assert set(midalign.ENTRY_POINTS) <= set(dir(midalign))
    with pytest.raises(AttributeError, match="no attribute 'evaluate_model'"):
        _ = midalign.evaluate_model
    code = "import midalign, sys; print({'torch', 'lm_eval', 'transformers', 'pydantic'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
