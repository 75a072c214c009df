"""Token preservation holds tokens to the untouched base, and what is published belongs to it."""

import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from midalign import adapter
from midalign.errors import RecipeError
from midalign.evaluate import vllm_limits
from midalign.train.base_model import with_adapter
from midalign.train.initial_weights import as_base, copy_initial_weights, write_plain_copy
from midalign.train.progress import TrainProgress
from midalign.train.recipe import Lora, load_recipe
from midalign.train.run import train_recipe

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluate"))
from tiny_models import make_base

IDS = torch.tensor([[1, 40, 41, 90, 200, 5]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("bases") / "tiny")


def fresh(base: Path) -> Any:
    """A base whose query projections have biases."""
    model = AutoModelForCausalLM.from_pretrained(base)
    for block in model.model.layers:
        block.self_attn.q_proj.bias = torch.nn.Parameter(torch.linspace(-1, 1, 64))
    return model


def lora(**fields: Any) -> Lora:
    return Lora(**{"r": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "down_proj"], **fields})


def states(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS, output_hidden_states=True).hidden_states[-1]


def moved(model: Any) -> None:
    torch.manual_seed(0)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa", "dropout": 0.5},
        {"init_lora_weights": "olora", "bias": "lora_only"},
        {"bias": "all"},
        {"modules_to_save": ["lm_head", "input_layernorm"]},
        {"use_dora": True, "init_lora_weights": False},
    ],
)
def test_the_reference_is_the_base_as_it_was(fields: dict[str, Any], base: Path) -> None:
    expected = states(fresh(base))
    model = with_adapter(fresh(base), lora(**fields)).train()
    initial = copy_initial_weights(model)
    for _ in range(2):
        moved(model)
        trained = states(model.eval())
        model.train()
        with as_base(model, initial):
            torch.testing.assert_close(states(model), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(states(model.eval()), trained)
        assert not torch.allclose(trained, expected, atol=1e-2)
        model.train()


@pytest.mark.parametrize(
    "fields",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora", "use_rslora": True, "bias": "lora_only"},
        {"init_lora_weights": "pissa", "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"down_proj": 5}},
    ],
)
def test_what_starts_as_a_part_of_the_base_is_written_as_plain_lora(
    fields: dict[str, Any], base: Path, tmp_path: Path
) -> None:
    model = with_adapter(fresh(base), lora(**fields))
    names = {weight: name for name, weight in model.named_parameters()}
    initial = {names[w].replace(".default", ""): value for w, value in copy_initial_weights(model).items()}
    moved(model)
    model.save_pretrained(tmp_path / "trained")
    plain = write_plain_copy(tmp_path / "trained", tmp_path / "plain", initial)
    assert adapter.adapter_config(plain)["init_lora_weights"] is True
    again = peft.PeftModel.from_pretrained(fresh(base), plain)
    torch.testing.assert_close(states(again.eval()), states(model.eval()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa_niter_4.*Expected true"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "init_lora_weights=loftq"),
        ({"init_lora_weights": "eva"}, "init_lora_weights=eva"),
        ({"init_lora_weights": "pissa", "use_dora": True}, "use_dora"),
        ({"layer_replication": [[0, 2], [1, 4]]}, "lora.layer_replication"),
    ],
)
def test_what_could_not_be_evaluated_is_rejected_before_it_is_trained(
    fields: dict[str, Any], message: str, base: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        with_adapter(fresh(base), lora(**fields))


@pytest.mark.slow
def test_a_run_that_starts_with_pissa(tmp_path: Path) -> None:
    """Nothing has moved before the first update, and what is published needs no part of the base."""
    small = ["seeds=[1]", "updates=2", "samples_per_update=4", "align.pairs_per_update=4"]
    small += ["align.copy_samples=2", "evaluate=false", f"output={tmp_path}"]
    recipe = load_recipe("mini", [*small, "align.preservation=3.0", "lora.init_lora_weights=pissa"])
    preservation = {}

    def report(progress: TrainProgress) -> None:
        preservation[progress.update] = progress.losses["preservation"]

    (folder,) = train_recipe(recipe, report, ["aligned"])
    assert preservation[1] < 1e-6 < preservation[2]
    assert vllm_limits.beyond_plain_lora(folder) is None
    assert adapter.adapter_config(folder)["r"] == 2 * recipe.lora.r
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
