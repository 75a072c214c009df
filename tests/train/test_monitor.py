"""Measuring while training: what is written, what ends an arm, and that watching changes nothing."""

import errno
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from midalign import bases
from midalign.align.retrieval import accuracy
from midalign.data import mini
from midalign.errors import RecipeError
from midalign.train import card, run
from midalign.train import recipe as recipes
from midalign.train.monitor import Log, best_update, cosine, means_by_role, pair_retrieval
from midalign.train.stream import Pair, TaskSamples, Tokens, task_code

SMALL = [
    "seeds=[1]",
    "updates=4",
    "samples_per_update=4",
    "align.pairs_per_update=4",
    "align.held_out=8",
    "lora.dropout=0.1",
]


def train(output, *changes):
    recipe = recipes.load("mini", [*SMALL, f"output={output}", *changes])
    return run.train(recipe, lambda _: None)


@pytest.mark.slow
def test_watching_changes_no_weight_and_everything_is_written(tmp_path):
    plain = train(tmp_path / "plain")
    watched = train(tmp_path / "watched", "monitor={every: 2, samples: 4}")
    for one, other in zip(plain, watched, strict=True):
        weights, again = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
        assert all(torch.equal(weights[name], again[name]) for name in weights)
    lines = [json.loads(line) for line in (watched[1] / run.LOG).read_text().splitlines()]
    assert [line["update"] for line in lines if "losses" in line] == [1, 2, 3, 4]
    measured = {line["update"]: line["measures"] for line in lines if "measures" in line}
    assert list(measured) == [0, 2, 4]
    for name in ("task_loss", "alignment_loss", "retrieval", "bits_per_character"):
        languages = [measured[4][f"{name}/{code}"] for code in ("de", "tr", "hi")]
        assert measured[4][f"{name}/aligned"] == pytest.approx(sum(languages) / 3)
    assert {f"task_loss/{code}" for code in ("en", "es", "ru", "zh", "supervised")} <= measured[4].keys()
    assert -1 <= measured[4]["gradient_cosine"] <= 1
    baseline = json.loads((watched[0] / run.LOG).read_text().splitlines()[-1])["measures"]
    assert "gradient_cosine" not in baseline
    assert baseline["retrieval/aligned"] >= 0


@pytest.mark.slow
def test_an_arm_ends_when_it_no_longer_gets_better_and_its_best_is_kept(tmp_path):
    (folder,) = train(
        tmp_path,
        "updates=50",
        "arms={baseline: null}",
        "learning_rate=100.0",  # only ever worse than at the beginning
        "warmup=0.0",
        "monitor={every: 1, samples: 4, stop_on: task_loss/supervised, patience: 2}",
    )
    measured = Log.measures(folder / run.LOG)
    assert [update for update, _ in measured] == [0, 1, 2]
    assert json.loads((folder / "midalign.json").read_text())["updates"] == 2
    weights = load_file(folder / "adapter_model.safetensors")
    assert all(weight.abs().sum() == 0 for name, weight in weights.items() if "lora_B" in name)


@pytest.mark.slow
def test_the_best_adapter_stays_the_best_one_where_publishing_it_failed(tmp_path, monkeypatch):
    changes = [
        "updates=4",
        "save_every=2",
        "arms={baseline: null}",
        "learning_rate=100.0",
        "monitor={every: 1, samples: 4, stop_on: task_loss/supervised, patience: 9}",
    ]

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(card, "write", full)
        with pytest.raises(OSError, match="No space left"):
            train(tmp_path, *changes)
    (folder,) = train(tmp_path, *changes)
    weights = load_file(folder / "adapter_model.safetensors")
    assert all(weight.abs().sum() == 0 for name, weight in weights.items() if "lora_B" in name)


def test_a_measure_that_there_is_not_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(RecipeError, match=r"no measure 'task_los/aligned'; there are .*task_loss/aligned"):
        train(tmp_path, "monitor={every: 1, samples: 2, stop_on: task_los/aligned}", "arms={baseline: null}")


def test_retrieval_is_that_of_sentences_alone_cut_to_the_recipes_length():
    base = bases.resolve("mini")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    pairs = [
        Pair(0, item.utterance, other.utterance)
        for item, other in zip(mini.items("de", "validation"), mini.items("en", "validation"), strict=True)
    ][:70]  # more than a batch

    def alone(sentence):
        ids = torch.tensor([tokenizer(sentence)["input_ids"][:6]])
        with torch.no_grad():
            return model(ids, output_hidden_states=True).hidden_states[3][0, 1:].mean(0)

    foreign, english = (
        torch.stack([alone(getattr(pair, side)) for pair in pairs]) for side in ("foreign", "english")
    )
    expected = accuracy(foreign, english)
    assert 0 < expected < 1
    assert pair_retrieval(model, Tokens(tokenizer, 6), pairs, [1, 3])[1] == pytest.approx(
        expected, abs=1 / 140
    )


def test_what_is_better():
    values = {2: 3.0, 4: 2.0, 6: 2.5}
    losses = [(0, {"x": 1.0}), *((update, {"task_loss/de": value}) for update, value in values.items())]
    assert best_update(losses, "task_loss/de") == (4, 1)
    f1 = [(update, {"slot_f1/de": value}) for update, value in values.items()]
    assert best_update(f1, "slot_f1/de") == (2, 2)


def test_a_log_goes_on_where_the_checkpoint_is(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"update": 1, "losses": {}}\n{"update": 2, "measures": {"x": 1}}\n{"update": 3}\n{"upda')
    log = Log(path, resumed_at=2)
    log.write({"update": 3, "measures": {"x": 2}})
    assert Log.measures(path) == [(2, {"x": 1}), (3, {"x": 2})]


def test_cosine_of_gradients():
    torch.manual_seed(0)
    one, other = torch.randn(3, 4), torch.randn(3, 4)
    expected = torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0).item()
    assert cosine([one, None, torch.ones(2)], [other, torch.ones(2), None]) == pytest.approx(expected)
    assert cosine([one], [-one]) == pytest.approx(-1)
    assert cosine([None], [one]) == 0


def test_languages_count_for_the_role_of_their_other_code():
    """A recipe aligns on `zh_cn`, and the task's metrics are of `zh`."""
    measures = {
        "retrieval/zh_cn": 0.5,
        "slot_f1/zh": 0.25,
        "slot_f1/hi": 0.75,
        "slot_f1/en": 1.0,
        "cosine": 0.1,
    }
    assert means_by_role(measures, ["en"], ["zh_cn", "hi"]) == {
        "retrieval/aligned": 0.5,
        "slot_f1/aligned": 0.5,
        "slot_f1/supervised": 1.0,
    }


def test_validation_samples_are_of_the_tasks_code_of_a_language():
    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("mini"))
    samples = TaskSamples(recipes.load("mini", SMALL), Tokens(tokenizer, 128))
    assert samples.validation("zh_cn", 2) == samples.validation("zh", 2) != []
    assert samples.validation("sw", 2) == []
    assert [task_code("midalign_mini_slot", code) for code in ("zh_cn", "zh", "sw")] == ["zh", "zh", "sw"]
    assert task_code("midalign_slot", "zh") == "zh_cn"
