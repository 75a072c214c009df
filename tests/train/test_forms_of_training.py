"""Recomputed activations and training of all weights, as the run does them."""

from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from midalign import bases
from midalign.train.recipe import load_recipe
from midalign.train.run import train_recipe

SMALL = ["seeds=[1]", "updates=2", "samples_per_update=4", "align.pairs_per_update=4", "align.copy_samples=2"]


def trained(output, *overrides):
    recipe = load_recipe("mini", [*SMALL, f"output={output}", "evaluate=false", *overrides])
    (folder,) = train_recipe(recipe, lambda progress: None, ["aligned"])
    return folder


@pytest.fixture
def blocks_run():
    """How often a block of the model has begun to run; recomputation stops early."""
    counted = Counter()

    def count(module, *_):
        counted["blocks"] += isinstance(module, LlamaDecoderLayer)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    yield counted
    hook.remove()


def test_recomputation_runs_blocks_again_and_changes_no_weight(tmp_path, blocks_run):
    kept = load_file(trained(tmp_path / "kept") / "adapter_model.safetensors")
    once = blocks_run.pop("blocks")
    again = load_file(trained(tmp_path / "again", "recompute=true") / "adapter_model.safetensors")
    assert blocks_run["blocks"] > 1.3 * once
    for name, weight in kept.items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=1e-6)


def test_all_weights_train_and_load_by_themselves(tmp_path):
    folder = trained(tmp_path, "lora=null", "align.preservation=0.0", "learning_rate=1e-3")
    before = AutoModelForCausalLM.from_pretrained(bases.resolve("mini")).state_dict()
    after = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert before.keys() == after.keys()
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert moved == set(after)
