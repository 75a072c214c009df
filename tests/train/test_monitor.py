"""Measuring while training: what is written, what ends an arm, and that watching changes nothing."""

import errno
import json
import math
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from test_trainer import tiny_sizes, trainer_of
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from midalign import bases, metrics, record
from midalign.align.retrieval import pair_accuracy
from midalign.cli import train as train_command
from midalign.cli.app import app
from midalign.data import mini
from midalign.errors import RecipeError
from midalign.evaluate import run as evaluation
from midalign.harness import task_code
from midalign.model_card import CARD
from midalign.train import monitor as monitoring
from midalign.train.build import Arm
from midalign.train.monitor import Monitor
from midalign.train.monitor_measures import (
    MeasuredValue,
    best_update,
    gradient_cosine,
    name_measures,
    pair_retrieval,
)
from midalign.train.progress import TRAINING_LOG, TrainingLog
from midalign.train.recipe import Align, load_recipe
from midalign.train.run import train_recipe
from midalign.train.samples import SampleTokenizer
from midalign.train.sentence_pairs import Pair, PairSamples
from midalign.train.task_samples import TaskSamples

SMALL = [
    "seeds=[1]",
    "supervised=[en, es]",
    "aligned=[de, tr]",
    "updates=4",
    "save_every=2",
    "samples_per_update=4",
    "align.pairs_per_update=4",
    "align.held_out=8",
    "align.centred=running",
    "lora.dropout=0.1",
]
WATCH = "monitor={every: 2, samples: 4}"


def train(output, *changes):
    recipe = load_recipe("mini", [*SMALL, f"output={output}", *changes])
    return train_recipe(recipe, lambda _: None)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, tokenizer):
    """The recipe key of a base that trains in moments."""
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**tiny_sizes(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"base={folder}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny):
    """Baseline and aligned adapter of a run that nobody watches."""
    return train(tmp_path_factory.mktemp("plain"), tiny)


@pytest.fixture(scope="module")
def watched(tmp_path_factory, tiny):
    return train(tmp_path_factory.mktemp("watched"), tiny, WATCH)


def lines(folder):
    return [json.loads(line) for line in (folder / TRAINING_LOG).read_text().splitlines()]


@pytest.mark.slow
def test_watching_changes_no_weight_and_everything_is_written(plain, watched):
    for one, other in zip(plain, watched, strict=True):
        weights, again = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
        assert all(torch.equal(weights[name], again[name]) for name in weights)
    means = [load_file(folder / "alignment.safetensors")["means"] for folder in (plain[1], watched[1])]
    assert torch.equal(*means)
    assert [line["update"] for line in lines(watched[1]) if "losses" in line] == [1, 2, 3, 4]
    measured = {line["update"]: line["measures"] for line in lines(watched[1]) if "measures" in line}
    assert list(measured) == [0, 2, 4]
    for name in ("task_loss", "alignment_loss", "retrieval", "bits_per_character"):
        languages = [measured[4][f"{name}/{code}"] for code in ("de", "tr")]
        assert measured[4][f"{name}/aligned"] == pytest.approx(sum(languages) / 2)
    assert {f"task_loss/{code}" for code in ("en", "es", "supervised")} <= measured[4].keys()
    assert -1 <= measured[4]["gradient_cosine"] <= 1
    baseline = lines(watched[0])[-1]["measures"]
    assert "gradient_cosine" not in baseline
    assert baseline["retrieval/aligned"] >= 0


KILLED = """
import os, signal, sys
from midalign import harness
from midalign.train import build, callbacks, checkpoints, monitor, run, stream
from midalign.train.recipe import load_recipe
from midalign.train.run import train_recipe

settings = load_recipe("mini", sys.argv[1:])
harness.load_tasks([settings.task])  # imports lm-eval once for all processes


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def train_until_killed(update):
    process = os.fork()
    if not process:
        if update is None:
            run._publish = die
        train_recipe(settings, lambda now: die() if now.update == update else None, ["aligned"])
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


for update in (1, 3, None):
    train_until_killed(update)
train_recipe(settings, lambda _: None, ["aligned"])
"""


@pytest.mark.slow
def test_a_watched_run_killed_at_three_places_ends_as_one_left_alone(plain, watched, tiny, tmp_path):
    """Killed before the first checkpoint, between checkpoints, and after the last update."""
    arguments = [*SMALL, f"output={tmp_path}", tiny, WATCH]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == 3 * [str(-signal.SIGKILL)]
    ended = tmp_path / "adapters" / "aligned-seed1"
    for file in ("adapter_model.safetensors", "alignment.safetensors"):
        assert (ended / file).read_bytes() == (plain[1] / file).read_bytes()
    assert lines(ended) == lines(watched[1])
    kept = ("updates", "tokens", "training")
    manifests = [json.loads((folder / "midalign.json").read_text()) for folder in (ended, plain[1])]
    assert [manifests[0][key] for key in kept] == [manifests[1][key] for key in kept]
    assert manifests[0]["training"].keys() >= {"task", "alignment"}


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
    measured = TrainingLog.measures(folder / TRAINING_LOG)
    assert [update for update, _ in measured] == [0, 1, 2]
    manifest = json.loads((folder / "midalign.json").read_text())
    assert (manifest["updates"], manifest["tokens"], manifest["training"]) == (0, 0, {})
    assert "| final losses | none |" in (folder / CARD).read_text()
    weights = load_file(folder / "adapter_model.safetensors")
    assert all(weight.abs().sum() == 0 for name, weight in weights.items() if "lora_B" in name)


@pytest.mark.slow
def test_what_is_published_and_said_of_it_are_of_the_best_update(tiny, tmp_path, monkeypatch):
    """An arm that ended early, and whose publishing failed, is neither trained on nor described otherwise."""
    changes = [
        tiny,
        "updates=9",
        "save_every=1",
        "arms={aligned: {alternate: update}}",
        "monitor={every: 1, samples: 1, generate: 1, patience: 2, stop_on: values_not_in_utterance/en}",
    ]
    faults, kept = [0.9, 0.3, 0.5, 0.5], {}
    measure = Monitor._measure

    def scripted(self, update, control):
        trained = self.arm.trainer.model.state_dict().items()
        kept[update] = {name: weight.clone() for name, weight in trained if "lora_" in name}
        measure(self, update, control)

    monkeypatch.setattr(Monitor, "_measure", scripted)
    monkeypatch.setattr(Monitor, "measure_held_out", lambda _: [])
    monkeypatch.setattr(Monitor, "_gradient_cosine", lambda _: {})
    monkeypatch.setattr(
        Monitor,
        "_score_generated",
        lambda _, update: [
            MeasuredValue("values_not_in_utterance", "en", "midalign_mini_slot_en", faults[update - 1])
        ],
    )

    def full(folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr("midalign.train.run.write_card", full)
        with pytest.raises(OSError, match="No space left"):
            train(tmp_path, *changes)
    assert list(kept) == [0, 1, 2, 3, 4]
    best = kept[2]
    kept.clear()
    (folder,) = train(tmp_path, *changes)
    assert list(kept) == []
    manifest = json.loads((folder / "midalign.json").read_text())
    first, second = (line for line in lines(folder) if "losses" in line and line["update"] <= 2)
    assert manifest["updates"] == 1  # of the task, the other is of alignment
    assert manifest["tokens"] == second["tokens"]
    assert manifest["training"] == first["losses"] | second["losses"]
    assert manifest["training"].keys() >= {"task", "alignment"}
    published = load_file(folder / "adapter_model.safetensors")
    assert all(torch.equal(published[name.replace(".default", "")], weight) for name, weight in best.items())


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(bases.resolve("mini"))


def watch(tokenizer, folder, *changes, align=None):
    """A monitor of a tiny model under the recipe's alignment, or of an arm that changes it."""
    changes = ("align.held_out=8", WATCH, "align.copy_samples=0", *changes)
    trainer = trainer_of(tokenizer, folder, changes, dropout=0.2)
    recipe, stream = trainer.train_dataset.task.recipe, trainer.train_dataset
    settings = Align.model_validate({**recipe.align.model_dump(), **(align or {})})
    arm = Arm(recipe, settings, list(trainer.layers), stream.task.tokens, stream, trainer)
    return Monitor(arm, folder, None)


def test_generated_answers_have_the_prompts_of_the_evaluation(tokenizer, tmp_path, monkeypatch):
    """What `midalign eval` is asked for while an arm trains differs in items and place alone."""
    asked = []

    def parsed(command, **_):
        monkeypatch.setattr(evaluation, "evaluate_models", lambda settings, *_: asked.append(settings) or [])
        done = CliRunner().invoke(app, command[command.index("eval") :])
        assert done.exit_code == 0, done.output
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", parsed)
    monkeypatch.setattr(monitoring, "read_measured_values", lambda *_: [])
    changes = ["chat_template=true", "system_instruction='Answer briefly.'"]
    monitor = watch(tokenizer, tmp_path, *changes, "monitor.generate=3")
    # Of a run that was killed after this measurement: its record would be one of another adapter.
    (tmp_path / "monitor").mkdir()
    (tmp_path / "monitor" / "update-2.json").touch()
    monitor._score_generated(2)
    assert not (tmp_path / "monitor").exists()

    class Done:
        returncode = 0

        def __init__(self, command):
            parsed(command)

        def wait(self):
            return 0

    monkeypatch.setattr(subprocess, "Popen", Done)
    train_command.evaluate_adapters(monitor.arm.recipe, [tmp_path])
    while_training, afterwards = asked
    assert afterwards.system_instruction == "Answer briefly."
    assert afterwards.apply_chat_template
    differs = {name for name, value in vars(afterwards).items() if vars(while_training)[name] != value}
    places = {"output", "adapters", "adapters_only", "tasks", "engine"}
    assert differs <= {"split", "limit", "supervised", "aligned", "save_outputs", *places}


LOSSES = ("missed", "false_alarms", "span_errors")
FAULTS = ("off_target", "unidentified", "copied", "empty", "values_not_in_utterance", *LOSSES)


@pytest.mark.parametrize("name", ["task_loss", "alignment_loss", "bits_per_character", *FAULTS])
def test_of_losses_and_shares_of_faults_the_lowest_is_best(name):
    measured = [(update, {f"{name}/aligned": value}) for update, value in ((2, 0.3), (4, 0.2), (6, 0.25))]
    assert best_update(measured, f"{name}/aligned") == (4, 1)


def test_every_metric_has_one_direction_whatever_its_family():
    directions = {}
    for family in map(metrics.scorer, metrics.FAMILIES):
        for metric in family.METRICS:
            direction = family.METRICS[metric].higher_is_better
            assert directions.setdefault(metric, direction) == direction
    assert metrics.metric_directions() == directions
    assert {metric for metric, higher in directions.items() if higher is False} == set(FAULTS)


def test_measurements_without_a_value_are_neither_better_nor_worse():
    """Of outputs whose language cannot be told no share is off target."""
    values = ((1, None), (2, 0.5), (3, None), (4, 0.6))
    measured = [(update, {"off_target/de": value}) for update, value in values]
    assert best_update(measured, "off_target/de") == (2, 1)
    assert best_update(measured[:1], "off_target/de") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("stop_on: task_los/aligned", "no measure 'task_los/aligned'. Did you mean task_loss"),
        (
            "stop_on: length_ratio/aligned, generate: 2",
            "values of length_ratio are better",
        ),
        ("stop_on: gradient_cosine", "neither high nor low values of gradient_cosine are better"),
        ("stop_on: slot_f1/aligned", "slot_f1/aligned is a score of generated answers: set monitor.generate"),
    ],
)
def test_what_cannot_end_an_arm_is_rejected_before_it_trains(tokenizer, tmp_path, settings, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        watch(tokenizer, tmp_path, f"monitor={{every: 1, samples: 2, {settings}}}")


def test_a_language_that_is_not_measured_is_rejected_with_those_that_are(tokenizer, tmp_path, monkeypatch):
    monitor = watch(tokenizer, tmp_path, "monitor.stop_on=task_loss/xx")
    monkeypatch.setattr(monitor, "measure_held_out", lambda: [MeasuredValue("task_loss", "de", "", 1.0)])
    with pytest.raises(RecipeError, match=r"no measure 'task_loss/xx'; there are task_loss/de, task_loss/al"):
        monitor._measure(1, None)


def test_the_cosine_is_that_of_both_losses_gradients_in_one_update_or_two(tokenizer, tmp_path):
    """Updates that alternate have the batches of joint ones: their gradients have the same cosine."""
    cosines = []
    for form in ("joint", "update"):
        monitor = watch(tokenizer, tmp_path, f"align.alternate={form}", "lora.dropout=0.0")
        monitor.arm.trainer.model.eval()
        cosines.append(monitor._gradient_cosine()["gradient_cosine"])
    trainer, stream = monitor.arm.trainer, monitor.arm.stream
    parameters = [p for p in trainer.model.parameters() if p.requires_grad]
    samples, pairs = (stream[update] for update in (0, 1))
    losses = [trainer.answer_loss(trainer.model, samples["answers"])]
    losses.append(trainer.align_loss(trainer.model, pairs["pairs"][0]))
    flat = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        flat.append(
            [p.new_zeros(p.shape) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        )
    shared = [i for i, gradient in enumerate(flat[1]) if gradient.abs().sum()]
    one, other = (torch.cat([gradients[i].flatten() for i in shared]).double() for gradients in flat)
    expected = torch.nn.functional.cosine_similarity(one, other, dim=0).item()
    assert abs(expected) > 1e-3
    assert cosines == [pytest.approx(expected, rel=1e-4)] * 2


def test_a_gradient_that_is_not_there_has_no_cosine(tokenizer, tmp_path, caplog):
    alone = watch(tokenizer, tmp_path, "align.task=false")
    alone._measure(0, None)
    assert alone.history[0][1]["gradient_cosine"] is None
    assert "gradient_cosine is not measured" in caplog.text


def test_measuring_leaves_means_noted_losses_and_dropout_as_they_were(tokenizer, tmp_path):
    monitor = watch(tokenizer, tmp_path, "align.centred=running", "align.learn_temperature=true")
    trainer = monitor.arm.trainer
    trainer.training_step(trainer.model, monitor.arm.stream[0])
    trainer.model.zero_grad()

    def state():
        noted = {name: list(values) for name, values in trainer.losses.items()}
        tensors = {name: value.clone() for name, value in trainer.alignment.state_dict().items()}
        return tensors, noted, torch.get_rng_state(), trainer.model.training

    assert trainer.alignment.log_temperature.grad is not None  # of the last update
    assert trainer.gradients_of({"pairs": []}) == [None] * len(trainer.trained_parameters())
    before = state()
    monitor._measure(2, None)
    after = state()
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert before[1] == after[1]
    assert torch.equal(before[2], after[2])
    assert before[3] == after[3]


def test_held_out_pairs_are_those_of_the_arm(tokenizer, tmp_path):
    """An arm with pairs of its own is not measured on what it trains on."""
    monitor = watch(tokenizer, tmp_path)
    for language in monitor.arm.recipe.aligned:
        own = [f"{language} {number}\tenglish {number}\n" for number in range(20)]
        (tmp_path / f"{language}.tsv").write_text("".join(own))
    changed = {"pairs": f"{tmp_path}/{{language}}.tsv", "held_out": 5}
    monitor = watch(tokenizer, tmp_path, align=changed)
    trained = PairSamples(monitor.arm.recipe, monitor.arm.align, monitor.arm.tokens).pairs
    for (language, held_out), pairs in zip(monitor.held_out.items(), trained, strict=True):
        assert len(held_out) == 5
        every = {f"{language} {number}" for number in range(20)}
        assert {pair.foreign for pair in held_out} == every - {pair.foreign for pair in pairs}


def test_treebanks_of_a_language_are_named_and_count_alike():
    figures = [
        MeasuredValue("span_f1", "en", "midalign_json_uner_en_ewt", 0.2),
        MeasuredValue("span_f1", "en", "midalign_json_uner_en_pud", 0.6),
        MeasuredValue("span_f1", "sv", "midalign_json_uner_sv_pud", 0.5),
        MeasuredValue("chrf", "en-de", "midalign_mini_mt_en-de", 30.0),
        MeasuredValue("chrf", "de-en", "midalign_mini_mt_de-en", 50.0),
        MeasuredValue("off_target", "de-en", "midalign_mini_mt_de-en", None),
        MeasuredValue("off_target", "en-de", "midalign_mini_mt_en-de", 0.1),
    ]
    found = name_measures(figures, record.Roles(supervised=["en", "sv"], aligned=["de"], unseen=[]))
    assert found == {
        "span_f1/midalign_json_uner_en_ewt": 0.2,
        "span_f1/midalign_json_uner_en_pud": 0.6,
        "span_f1/en": pytest.approx(0.4),
        "span_f1/sv": 0.5,
        "span_f1/supervised": pytest.approx((0.2 + 0.6 + 0.5) / 3),  # over treebanks, as on the board
        "chrf/en-de": 30.0,
        "chrf/de-en": 50.0,
        "chrf/aligned": 40.0,
        "off_target/de-en": None,
        "off_target/en-de": 0.1,
        "off_target/aligned": None,
    }


def test_validation_samples_are_of_all_tasks_of_a_language(tokenizer):
    """Two directions of translation, as two treebanks."""
    recipe = load_recipe("mini", ["task=midalign_mini_mt", "supervised=[es]"])
    samples = TaskSamples(recipe, SampleTokenizer(tokenizer, 512))
    documents = []
    samples.render = lambda task, document: documents.append((task.config.task, document)) or document
    assert len(samples.validation("es", 5)) == 5
    names = [name for name, _ in documents]
    assert sorted(names.count(name) for name in set(names)) == [2, 3]


def test_one_layer_is_measured_and_named(tokenizer, tmp_path):
    """Of several aligned layers the first, in monitor, manifest and records."""
    monitor = watch(tokenizer, tmp_path, "align.layer=[1, 3]")
    assert monitor.arm.layers == [1, 3]
    figures = {(figure.measure, figure.language): figure.value for figure in monitor.measure_held_out()}
    model, tokens = monitor.arm.trainer.model.eval(), monitor.arm.tokens
    by_layer = {
        code: pair_retrieval(model, tokens, pairs, [1, 3]) for code, pairs in monitor.held_out.items()
    }
    assert any(first != last for first, last in by_layer.values())
    assert {code: figures["retrieval", code] for code in by_layer} == {c: v[0] for c, v in by_layer.items()}


def test_bits_per_character_are_of_the_text_that_is_not_cut(tokenizer, tmp_path):
    monitor = watch(tokenizer, tmp_path)
    monitor.arm = replace(monitor.arm, tokens=SampleTokenizer(tokenizer, 6))
    model = monitor.arm.trainer.model.eval()
    nats = characters = 0.0
    for pair in monitor.held_out["de"]:
        ids = tokenizer(pair.foreign)["input_ids"][:6]
        batch = torch.tensor([ids])
        with torch.no_grad():
            nats += float(model(input_ids=batch, labels=batch).loss) * (len(ids) - 1)
        characters += len(tokenizer.decode(ids, skip_special_tokens=True))
    figures = {(figure.measure, figure.language): figure.value for figure in monitor.measure_held_out()}
    assert figures["bits_per_character", "de"] == pytest.approx(nats / math.log(2) / characters, rel=1e-4)


def test_an_arm_without_alignment_is_watched_at_the_recipes_layer(tmp_path, monkeypatch):
    from midalign.train import build
    from midalign.train.build import build_arm

    seen = []
    monkeypatch.setattr(build, "_layers", lambda recipe, align, *_: seen.append(align.layer) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_arm(load_recipe("mini", ["align.layer=3", *SMALL, WATCH]), "baseline", 1, tmp_path)
    assert seen == [3]


def test_several_translations_of_a_sentence_are_all_found(tokenizer, tmp_path):
    """As among distinct sentences: each finds any of its translations nearest."""
    base = bases.resolve("mini")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    items = list(zip(mini.items("de", "validation"), mini.items("en", "validation"), strict=True))[:12]
    pairs = [Pair(0, foreign.utterance, english.utterance) for foreign, english in items]
    pairs += [Pair(0, f"{pair.foreign} bitte", pair.english) for pair in pairs[:8]]
    pairs += [Pair(0, pair.foreign, f"please {pair.english}") for pair in pairs[4:8]]
    right = {(pair.foreign, pair.english) for pair in pairs}
    states = {}
    for text in {text for pair in pairs for text in pair.sides}:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states[text] = model(ids, output_hidden_states=True).hidden_states[3][0, 1:].mean(0)
    means = [torch.stack([states[pair.sides[side]] for pair in pairs]).mean(0) for side in (0, 1)]

    def nearest(text, mean, candidates, other_mean):
        scores = {
            other: torch.nn.functional.cosine_similarity(
                states[text] - mean, states[other] - other_mean, dim=0
            )
            for other in candidates
        }
        return max(scores, key=scores.get)

    foreign, english = ({pair.sides[side] for pair in pairs} for side in (0, 1))
    hits = [
        found
        for pair in pairs
        for found in (
            (pair.foreign, nearest(pair.foreign, means[0], english, means[1])) in right,
            (nearest(pair.english, means[1], foreign, means[0]), pair.english) in right,
        )
    ]
    expected = sum(hits) / len(hits)
    assert 0.2 < expected < 1
    assert pair_retrieval(model, SampleTokenizer(tokenizer, 64), pairs, [3]) == [pytest.approx(expected)]


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
    expected = pair_accuracy(foreign, english)
    assert 0 < expected < 1
    assert pair_retrieval(model, SampleTokenizer(tokenizer, 6), pairs, [1, 3])[1] == pytest.approx(
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
    path.write_text(
        '{"update": 1, "losses": {}}\n{"update": 2, "measures": {"x": 1}}\n{"update": 3}\n{"u": {}'
    )
    log = TrainingLog(path, resumed_at=2)
    log.write({"update": 3, "measures": {"x": 2}})
    assert TrainingLog.measures(path) == [(2, {"x": 1}), (3, {"x": 2})]


def test_a_log_begins_anew_where_there_is_no_checkpoint(tmp_path):
    """The measurement before the first update is made again."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"update": 0, "measures": {"x": 1}}\n')
    TrainingLog(path, resumed_at=0)
    assert TrainingLog.measures(path) == []


def test_cosine_of_gradients():
    torch.manual_seed(0)
    one, other = torch.randn(3, 4), torch.randn(3, 4)
    expected = torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0).item()
    assert gradient_cosine([one, None, torch.ones(2)], [other, torch.ones(2), None]) == pytest.approx(
        expected
    )
    assert gradient_cosine([one], [-one]) == pytest.approx(-1)
    zeros = torch.zeros(2)  # of a process that did not reach the parameter
    assert gradient_cosine([one, zeros], [other, torch.ones(2)]) == pytest.approx(expected)
    assert gradient_cosine([None], [one]) is None
    assert gradient_cosine([torch.zeros(3, 4)], [one]) is None


def test_languages_count_for_the_role_of_their_other_code():
    """A recipe aligns on `zh_cn`, and the task's metrics are of `zh`."""
    figures = [
        MeasuredValue("retrieval", "zh_cn", "", 0.5),
        MeasuredValue("slot_f1", "zh", "midalign_slot_zh", 0.25),
        MeasuredValue("slot_f1", "hi", "midalign_slot_hi", 0.75),
        MeasuredValue("slot_f1", "en", "midalign_slot_en", 1.0),
    ]
    measures = name_measures(figures, record.Roles(supervised=["en"], aligned=["zh_cn", "hi"], unseen=[]))
    assert {name: value for name, value in measures.items() if name.endswith("ed")} == {
        "retrieval/aligned": 0.5,
        "slot_f1/aligned": 0.5,
        "slot_f1/supervised": 1.0,
    }


def test_validation_samples_are_of_the_tasks_code_of_a_language():
    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("mini"))
    samples = TaskSamples(load_recipe("mini", SMALL), SampleTokenizer(tokenizer, 128))
    assert samples.validation("zh_cn", 2) == samples.validation("zh", 2) != []
    assert samples.validation("sw", 2) == []
    assert [task_code("midalign_mini_slot", code) for code in ("zh_cn", "zh", "sw")] == [
        "zh",
        "zh",
        "sw",
    ]
    assert task_code("midalign_slot", "zh") == "zh_cn"
