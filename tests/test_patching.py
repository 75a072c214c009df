"""Activation patching against what must hold at its ends, and against one layer patched alone."""

import csv

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from midalign import bases
from midalign.align.trunk import decoder_blocks, states_at_each
from midalign.analyze.patching import ParallelPrompt, analyze_patching, measure_answers, patched_next_token
from midalign.cli.app import app
from midalign.errors import DataError


@pytest.fixture(scope="module")
def mini():
    model, tokenizer = bases.load_model_and_tokenizer(bases.resolve("mini"), dtype=torch.float32)
    return model.eval(), tokenizer


def log_probabilities(model, ids):
    with torch.inference_mode():
        return model(input_ids=ids).logits[0, -1].log_softmax(-1)


def test_patched_rows_are_those_of_each_layer_patched_alone(mini):
    model, tokenizer = mini
    foreign, english = (
        torch.tensor([tokenizer(text)["input_ids"]])
        for text in (
            "Utterance: weck mich um neun\nSlots:",
            "Utterance: what is the weather in york on friday\nSlots:",
        )
    )
    depth = len(decoder_blocks(model))
    with torch.inference_mode():
        layers = states_at_each(model, {"input_ids": english}, range(depth + 1), lambda state: state[0, -1])
        rows = patched_next_token(model, foreign, torch.stack(layers))
    # The last token is the same in both prompts, so its embedding changes nothing. The last state is all.
    torch.testing.assert_close(rows[0], log_probabilities(model, foreign), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows[-1], log_probabilities(model, english), atol=1e-4, rtol=0)

    def patch(_, __, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, -1] = layers[3]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    hook = decoder_blocks(model)[2].register_forward_hook(patch)
    alone = log_probabilities(model, foreign)
    hook.remove()
    torch.testing.assert_close(rows[3], alone, atol=1e-4, rtol=0)
    assert (alone - log_probabilities(model, foreign)).abs().max() > 0.01
    # Nothing stays behind.
    torch.testing.assert_close(log_probabilities(model, foreign), rows[0], atol=1e-4, rtol=0)


def test_command_writes_a_row_per_language_measure_and_layer(tmp_path):
    command = ["analyze", "mini", "--patch", "midalign_mini_slot", "--languages", "de,tr", "--count", "10"]
    done = CliRunner().invoke(app, [*command, "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "patching.png").is_file()
    rows = list(csv.DictReader((tmp_path / "patching.csv").open()))
    assert [(row["language"], row["measure"], int(row["layer"])) for row in rows] == [
        (language, measure, layer)
        for language in ("de", "tr")
        for measure in ("decision", "label")
        for layer in range(9)
    ]
    for row in rows:  # in bfloat16 where the hardware has it
        if row["layer"] == "0":
            assert float(row["patched"]) == pytest.approx(float(row["foreign"]), abs=0.02)
        if row["layer"] == "8":
            assert float(row["patched"]) == pytest.approx(float(row["english"]), abs=0.02)
            if row["measure"] == "label":  # the control is another item's answer
                assert row["unrelated"] != row["patched"]


@pytest.mark.parametrize(
    ("answer", "has_slots", "decision"), [(0, False, 1.0), (0, True, 0.0), (2, True, 1.0), (2, False, 0.0)]
)
def test_decision_is_right_if_none_is_said_of_items_without_slots(answer, has_slots, decision):
    scores = torch.full((1, 3), -5.0)
    scores[0, answer] = -0.1
    measured = measure_answers(scores, ParallelPrompt([], [], 1, has_slots), nothing=0)[0]
    assert measured[0] == decision
    assert measured[1] == pytest.approx(-5.0) if has_slots else np.isnan(measured[1])


@pytest.mark.parametrize(
    "options",
    [["--layers", "4"], ["--sentences", "folder"], ["--records", "folder"], ["--against", "folder"]],
)
def test_options_of_the_other_analysis_are_rejected(options):
    command = ["analyze", "mini", "--patch", "midalign_mini_slot", "--languages", "de", *options]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "--patch does not use" in done.output


@pytest.mark.parametrize(
    ("task", "languages", "count", "message"),
    [
        ("midalign_mini_json", ["de"], 10, "is not slot filling"),
        ("midalign_mini_slot", ["en"], 10, "No language besides en"),
        ("midalign_mini_slot", ["de"], 3, "--count is 3, expected at least 10"),
    ],
)
def test_unsupported_patching_is_rejected(tmp_path, task, languages, count, message):
    with pytest.raises(DataError, match=message):
        analyze_patching("mini", task, languages, count=count, output=tmp_path)
