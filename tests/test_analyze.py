"""`midalign analyze`: measures against brute force, and the command on the bundled base."""

import csv
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import peft
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from midalign import adapter, bases, record
from midalign.align.measures import measure_retrieval
from midalign.analyze import devices, pairs, report, states
from midalign.data import ntrex
from midalign.errors import BaseModelError, DataError, EngineError, TaskError
from midalign.evaluate import retrieval
from midalign.languages import languages

sizes = st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))


def brute_force(x, y):
    """Every measure of two languages, sentence by sentence, in float64."""
    n = len(x)

    def cosine(a, b):
        return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))

    def matrix(x, y):
        return [[cosine(a, b) for b in y] for a in x]

    def found(score):
        there = [all(score[i][i] > score[i][j] for j in range(n) if j != i) for i in range(n)]
        back = [all(score[i][i] > score[j][i] for j in range(n) if j != i) for i in range(n)]
        return there, back

    def nearest(values, k):
        return sum(sorted(values)[-k:]) / min(k, n)

    c = matrix(x, y)
    rows = {k: [nearest(c[i], k) for i in range(n)] for k in (4, 10)}
    columns = {k: [nearest([c[j][i] for j in range(n)], k) for i in range(n)] for k in (4, 10)}
    grid = [(i, j) for i in range(n) for j in range(n)]
    centred = matrix(x - x.mean(0), y - y.mean(0))
    scores = {
        "accuracy": c,
        "margin": [[c[i][j] / ((rows[4][i] + columns[4][j]) / 2) for j in range(n)] for i in range(n)],
        "csls": [[2 * c[i][j] - rows[10][i] - columns[10][j] for j in range(n)] for i in range(n)],
        "centred": centred,
    }
    result = {}
    for name, score in scores.items():
        there, back = found(score)
        result[name], result[f"{name}_back"] = sum(there) / n, sum(back) / n
    # MEXA: the translation is nearer than every other sentence of its row and of its column.
    alone = [all(c[i][i] > max(c[i][j], c[j][i]) for j in range(n) if j != i) for i in range(n)]
    result["mexa"] = sum(alone) / n
    for prefix, table in (("", c), ("centred_", centred)):
        result[f"{prefix}pair_cosine"] = sum(table[i][i] for i in range(n)) / n
        result[f"{prefix}other_cosine"] = sum(table[i][j] for i, j in grid if i != j) / (n * (n - 1))
    return result


@settings(deadline=None, max_examples=30)
@given(sizes)
def test_measures_are_those_of_brute_force(size):
    sentences, languages, seed = size
    random = np.random.default_rng(seed)
    shared = random.normal(size=(sentences, 5)) + 1
    x, *others = (shared + random.normal(size=(sentences, 5)) for _ in range(languages + 1))
    found = measure_retrieval(torch.tensor(x), torch.tensor(np.stack(others)))
    for number, y in enumerate(others):
        for name, value in brute_force(x, y).items():
            assert float(found[name][number]) == pytest.approx(value, abs=2e-5), name


# The same examples in every run: sentences 1e-6 apart can be nearer than the rounding of fp32.
@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(4, 30), st.integers(0, 2**32 - 1), st.sampled_from([0, 1e-6, 1e-5]))
def test_ties_and_what_is_nearly_one_are_those_of_brute_force(sentences, seed, apart):
    random = np.random.default_rng(seed)
    shared = random.normal(size=(sentences, 5)) + 30  # cosines near 1, as those of a decoder's states
    x, y = (shared + random.normal(size=(sentences, 5)) for _ in range(2))
    said = random.integers(0, sentences, size=(2, sentences))
    x, y = (side[own] for side, own in zip((x, y), np.where(said % 2, said, range(sentences)), strict=True))
    x, y = ((side + apart * random.normal(size=side.shape)).astype(np.float32) for side in (x, y))
    found = measure_retrieval(torch.tensor(x), torch.tensor(y[None]))
    expected = brute_force(x.astype(float), y.astype(float))
    for name in (*pairs.RETRIEVALS, *(f"{name}_back" for name in pairs.RETRIEVALS), "mexa"):
        assert float(found[name]) == pytest.approx(expected[name], abs=1e-9), name


def test_a_tie_is_not_found():
    x = torch.eye(3)
    y = torch.stack([x[0], x[1], x[1]])
    found = measure_retrieval(x, y.unsqueeze(0))
    assert float(found["accuracy"]) == pytest.approx(1 / 3)  # the third sentence is orthogonal to its own
    assert float(found["accuracy_back"]) == pytest.approx(2 / 3)
    assert float(found["mexa"]) == pytest.approx(1 / 3)


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 12), st.integers(0, 2**32 - 1))
def test_all_translations_of_a_repeated_sentence_are_right(rows, seed):
    """Retrievals are those among distinct sentences, where any translation may be the nearest."""
    random = np.random.default_rng(seed)
    states = random.normal(size=(2, rows, 5))
    numbers = random.integers(0, max(rows // 2, 2), size=(2, rows))
    texts = [[f"sentence {number}" for number in side] for side in numbers]
    right = set(zip(*texts, strict=True))
    x, y = (side[own] for side, own in zip(states, numbers, strict=True))
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y))
    cosines = x @ y.T
    alike = np.array([[(one, other) in right for other in texts[1]] for one in texts[0]])
    found = [
        (np.where(alike, cosines, -2).max(side) > np.where(alike, -2, cosines).max(side) + 1e-12)
        for side in (1, 0)
    ]
    wrong = cosines[~alike]
    matrices = pairs.measure_layer(torch.tensor(np.stack([x, y])), texts)
    assert matrices["accuracy"][0, 1] == pytest.approx(found[0].mean())
    assert matrices["accuracy"][1, 0] == pytest.approx(found[1].mean())
    assert matrices["mexa"][0, 1] == pytest.approx((found[0] & found[1]).mean())
    assert matrices["pair_cosine"][0, 1] == pytest.approx(np.diagonal(cosines).mean())
    assert matrices["other_cosine"][0, 1] == pytest.approx(wrong.mean() if len(wrong) else 0, abs=1e-6)


def test_all_pairs_have_both_directions_however_many_fit_in_memory(monkeypatch):
    torch.manual_seed(0)
    given = torch.randn(5, 7, 4) + torch.randn(1, 7, 4)
    whole = pairs.measure_layer(given)
    monkeypatch.setattr(pairs, "ROOM", 2 * 7**2)
    parts = pairs.measure_layer(given)
    for name, matrix in whole.items():
        np.testing.assert_array_equal(parts[name], matrix)
        assert np.isnan(np.diagonal(matrix)).all()
    for i in range(5):
        for j in range(5):
            if i != j:
                expected = brute_force(given[i].numpy(), given[j].numpy())
                for name in pairs.MEASURES:
                    assert whole[name][i, j] == pytest.approx(expected[name], abs=2e-5)
    table = pairs.pair_table({0: whole, 3: whole}, list("abcde")).to_pylist()
    assert len(table) == 40
    row = next(row for row in table if (row["layer"], row["source"], row["target"]) == (3, "d", "b"))
    assert row["margin"] == pytest.approx(whole["margin"][3, 1])


def test_states_of_all_layers_are_means_of_hidden_states():
    base = bases.resolve("mini")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = ["wake me up at nine", "hello", "play some jazz in the kitchen tonight please"]
    depth = model.config.num_hidden_layers
    found = retrieval.pooled_states(model, tokenizer, texts, range(depth + 1), rows=2)
    for number, text in enumerate(texts):
        inputs = tokenizer(text, return_tensors="pt")
        words = inputs["input_ids"][0] != tokenizer.bos_token_id
        with torch.no_grad():
            hidden = model(**inputs, output_hidden_states=True).hidden_states
        for layer in range(depth):  # the last of hidden_states has been through the final norm
            torch.testing.assert_close(
                found[layer, number], hidden[layer][0][words].mean(0), rtol=1e-4, atol=1e-4
            )


def test_a_sentence_longer_than_the_context_loses_its_end():
    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("mini"))
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=40, n_embd=8, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(config).eval()
    long = "play some jazz in the kitchen tonight please " * 9
    ids = tokenizer(long, return_tensors="pt")["input_ids"][:, :32]  # the multiple of 16 below 40
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states[1][0]
    found = retrieval.pooled_states(model, tokenizer, ["hello", long], [1])
    torch.testing.assert_close(found[0, 1], hidden[1:].mean(0))  # GPT-2's own BOS has another id


def test_layers_and_their_means():
    codes = ["en", "de", "sw", "hi", "tr"]
    matrix = np.full((5, 5), 0.2, np.float32)
    matrix[0, 1:], matrix[1:, 0] = [0.9, 0.1, 0.5, 0.6], [0.7, 0.3, 0.5, 0.4]
    np.fill_diagonal(matrix, np.nan)
    better, worse = ({name: matrix + more for name in pairs.MEASURES} for more in (0.1, 0))
    layers = report.summarise_layers({0: better, 1: worse, 2: better, 3: better})
    assert report.recommend_layer(layers) == 2
    assert layers[1].with_english["margin"] == pytest.approx(0.5)
    assert layers[1].all_pairs["mexa"] == pytest.approx((8 * 0.5 + 12 * 0.2) / 20)
    with_english = report.retrieval_with_english(worse[report.HEADLINE], codes)
    assert with_english == pytest.approx({"de": 0.8, "sw": 0.2, "hi": 0.5, "tr": 0.5})


def test_an_analysis_is_read_back_for_the_same_sentences_alone(tmp_path):
    texts = {code: [f"{code} {i}" for i in range(20)] for code in ("en", "de", "sw")}
    random = np.random.default_rng(0)
    found = {}
    for layer in (0, 4):
        found[layer] = {name: random.random((3, 3), np.float32) for name in pairs.MEASURES}
        for matrix in found[layer].values():
            np.fill_diagonal(matrix, np.nan)
    described = report.add_metadata(
        pairs.pair_table(found, list(texts)), "some base", ("b", None, "t"), texts
    )
    report.write_analysis(tmp_path, described, {report.CHANGES: b"of an earlier time"})
    report.write_analysis(tmp_path, described, {})
    assert not (tmp_path / report.CHANGES).exists()
    again = report.read_analysis(tmp_path, texts, [4, 5])
    assert (again.model, list(again.headline)) == ("some base", [0, 4])
    about = {**json.loads(described.schema.metadata[report.ABOUT]), "pooling": "as before"}
    earlier = described.replace_schema_metadata({report.ABOUT: json.dumps(about)})
    report.write_analysis(tmp_path / "earlier", earlier, {})
    with pytest.raises(DataError, match="earlier version, whose means are over other tokens"):
        report.read_analysis(tmp_path / "earlier", texts, [4])
    np.testing.assert_array_equal(again.headline[4], found[4][report.HEADLINE])
    others = [
        {**texts, "tr": texts["sw"]},
        {code: lines[:10] for code, lines in texts.items()},
        {**texts, "sw": texts["de"]},
        {"en": texts["en"], "sw": texts["sw"], "de": texts["de"]},
    ]
    for other in others:
        with pytest.raises(DataError, match="has 3 languages and 20 sentences of each, not those requested"):
            report.read_analysis(tmp_path, other, [4])
    with pytest.raises(DataError, match="has layers 0, 4, and none of the requested ones"):
        report.read_analysis(tmp_path, texts, [5])
    report.check_output(tmp_path, "some base", ("b", None, "t"))
    for name, digests in (("some base with A", ("b", "a", "t")), ("same weights", ("b", None, "other"))):
        with pytest.raises(DataError, match=f"has the analysis of some base, and {name} is another model"):
            report.check_output(tmp_path, name, digests)
    before = described.replace_schema_metadata({report.ABOUT: json.dumps({**about, "digests": ["b", None]})})
    report.write_analysis(tmp_path / "earlier", before, {})
    report.check_output(tmp_path / "earlier", "some base", ("b", None, "t"))
    (tmp_path / report.TABLE).write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match=r"alignment\.parquet cannot be read"):
        report.read_analysis(tmp_path, texts, [4])


def files(folder, **texts):
    folder.mkdir()
    for code, lines in texts.items():
        text = "\n".join(lines) + "\n"
        (folder / f"{code}.txt").write_text(text, "utf-8", errors="surrogateescape")
    return folder


def test_states_of_another_tokenizer_are_not_reused(tmp_path):
    """Equal weights with another tokenizer give other tokens, and so other states."""
    source = Path(bases.resolve("mini"))
    shutil.copytree(source, tmp_path / "base")
    tokenizer = json.loads((tmp_path / "base" / "tokenizer.json").read_text("utf-8"))
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (tmp_path / "base" / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    assert states.model_digests(str(tmp_path / "base"), None) != states.model_digests(str(source), None)


def test_sentences_are_parallel_or_refused(tmp_path):
    lines = [f"line {i}" for i in range(50)]
    folder = files(tmp_path / "all", en=lines, de=[f"Zeile {i}" for i in range(50)])
    found = states.parallel_sentences(str(folder), None, 30)
    assert list(found) == ["en", "de"]
    assert [one.split()[1] for one in found["en"]] == [one.split()[1] for one in found["de"]]
    assert len(set(found["en"])) == 30
    wrong = [
        (files(tmp_path / "short", en=lines, de=lines[:-1]), None, "de has 49 lines and en has 50"),
        (files(tmp_path / "few", en=lines[:9], de=lines[:9]), None, "gives 9 sentences per language"),
        (files(tmp_path / "none", de=lines), None, "has no en.txt, found de"),
        (folder, ["sw"], "has no sw.txt"),
        (folder, ["en"], "has no language besides en"),
        (files(tmp_path / "blank", en=lines, de=[*lines[:7], " ", *lines[8:]]), None, "line 8: empty"),
        (files(tmp_path / "broken", en=lines, de=[*lines[:-1], "\udcff"]), None, "line 50: not UTF-8"),
    ]
    odd = files(tmp_path / "odd", en=lines, de=["\ufeffeins\u2028zwei", *lines[:48], "neun\x0czehn"])
    assert set(states.parallel_sentences(str(odd), None, 50)["de"]) == {
        "eins\u2028zwei",
        *lines[:48],
        "neun\x0czehn",
    }
    for place, codes, message in wrong:
        with pytest.raises(DataError, match=message):
            states.parallel_sentences(str(place), codes, 30)
    with pytest.raises(TaskError, match="Did you mean"):
        states.parallel_sentences("ntrex", ["deu_"], 30)


def command(*words):
    return [sys.executable, "-m", "midalign", "analyze", "mini", *map(str, words)]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_killed_analysis_goes_on(tmp_path):
    from midalign.data import mini

    codes = ["en", "de", "tr", "hi", "fr"]
    by_code = {code: {item.id: item.utterance for item in mini.items(code, "test")} for code in codes}
    shared = sorted(set.intersection(*(set(items) for items in by_code.values())))
    folder = files(tmp_path / "texts", **{code: [by_code[code][i] for i in shared] for code in codes})
    words = ["--sentences", folder, "--count", 60, "--output", tmp_path / "out"]
    process = subprocess.Popen(command(*words), stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 100
    while not (kept := list((tmp_path / "out" / "states").glob("*.safetensors"))):
        assert process.poll() is None, "the analysis ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in kept}
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert "align.layer=" in done.stdout
    table = pyarrow.parquet.read_table(tmp_path / "out" / "alignment.parquet").to_pylist()
    assert len(table) == 20 * (
        AutoModelForCausalLM.from_pretrained(bases.resolve("mini")).config.num_hidden_layers + 1
    )
    rows = list(csv.DictReader((tmp_path / "out" / "alignment.csv").open()))
    assert [float(row["margin"]) for row in rows] == pytest.approx([row["margin"] for row in table])
    for name in ("layers.png", "languages.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")

    words = ["--sentences", folder, "--count", 60, "--layers", "2", "--output", tmp_path / "two"]
    trained = Path(__file__).parents[1] / "leaderboard" / "results" / "mini-baseline-seed1.json"
    entry, items = record.read_record(trained).model_copy(update={"items": None}), record.read_items(trained)
    of_adapter = record.write_record(entry, items, tmp_path / "adapter's").parent
    more = ["--against", tmp_path / "out", "--records", of_adapter]
    done = subprocess.run(command(*words, *more), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No record of this model" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "two").exists()  # refused before hours of work
    base = entry.base.model_copy(update={"digest": adapter.base_digest(bases.resolve("mini"))})
    of_base = entry.model_copy(update={"adapter": None, "base": base})
    more[-1] = record.write_record(of_base, items, tmp_path / "base's").parent
    done = subprocess.run(command(*words, *more), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    (row,) = (line for line in lines if line[0] == "2")
    assert float(row[-1]) == 0
    assert all(float(line[-1]) == 0 for line in lines if line[0] in codes[1:])
    assert sum(line[0] in codes[1:] for line in lines) == 4
    assert (tmp_path / "two" / "changes.png").is_file()
    # r, low, high, and the words after them
    assert [line[3:] for line in lines if line[3:4] == ["midalign_mini_slot,"]] == [
        ["midalign_mini_slot,", "test,", "free,", "4", "languages", "mini-baseline-seed1.json"]
    ]
    with pytest.raises(DataError, match="has no layer 77: it has 8 blocks"):
        pairs.layer_numbers("mini", "2,77")
    with pytest.raises(DataError, match="Analyse the other model first"):
        report.read_analysis(tmp_path / "nothing", {}, [])
    with pytest.raises(BaseModelError, match=r"has no config\.json"):
        pairs.layer_numbers(str(tmp_path), "")
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(BaseModelError, match=r"has a model type that transformers does not know"):
        pairs.layer_numbers(str(tmp_path), "")


@pytest.fixture
def ntrex_cache(store_once, monkeypatch):
    monkeypatch.setenv("MIDALIGN_CACHE", store_once(ntrex))


@pytest.mark.data
def test_sentences_of_ntrex_are_those_published(ntrex_cache, shared_data):
    texts = states.parallel_sentences("ntrex", ["sw", "en", "cy"], 40)
    assert list(texts) == ["en", "cy", "sw"]
    with tarfile.open(shared_data / "ntrex" / "ntrex-128.tar.xz") as archive:
        files = {Path(member.name).name: member for member in archive.getmembers()}
        names = ("newstest2019-src.eng.txt", "newstest2019-ref.cym.txt", "newstest2019-ref.swa.txt")
        published = [archive.extractfile(files[name]).read().decode().splitlines() for name in names]
    rows = {lines: number for number, lines in enumerate(zip(*published, strict=True))}
    places = [rows[lines] for lines in zip(*texts.values(), strict=True)]
    assert places == sorted(places)
    assert len(set(places)) == 40
    assert len(states.parallel_sentences("ntrex", None, 20)) == 1 + sum(
        bool(row.codes["ntrex"]) for row in languages().values()
    )


@pytest.mark.data
@pytest.mark.exhaustive
@pytest.mark.slow
def test_what_cannot_be_analysed_is_refused_before_anything_is_written(ntrex_cache, tmp_path):
    adapter = tmp_path / "adapter"
    config = GPT2Config(vocab_size=50, n_positions=40, n_embd=8, n_layer=2, n_head=2)
    peft.get_peft_model(GPT2LMHeadModel(config), peft.LoraConfig()).save_pretrained(str(adapter))
    trained = Path(__file__).parents[1] / "leaderboard" / "results" / "mini-baseline-seed1.json"
    entry = json.loads(trained.read_text("utf-8"))
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / trained.name).write_text(json.dumps({**entry, "schema_version": 3, "new": 0}))
    words = ["--languages", "sw,cy", "--count", 20, "--layers", 2, "--output", tmp_path / "out"]
    refused = {
        ("--adapter", adapter): "trained on",
        ("--adapter", tmp_path): "is not an adapter",
        ("--records", tmp_path / "records"): "has schema_version 3",
    }
    for option, message in refused.items():
        done = subprocess.run(command(*words, *option), capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert message in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out").exists()
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = pyarrow.parquet.read_table(tmp_path / "out" / "alignment.parquet").to_pylist()
    both = {(row["source"], row["target"]) for row in table}
    assert both == set(itertools.permutations(["en", "sw", "cy"], 2))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_devices_share_languages_and_layers(tmp_path):
    texts = {code: [f"{code} wake me at {i}" for i in range(25)] for code in ("en", "de", "sw")}
    seen, found = [], []
    for place in (["cpu"], ["cpu", "cpu"]):
        folder = tmp_path / str(len(place))
        store = states.embed_languages("mini", None, texts, folder, place, lambda *both: seen.append(both))
        found.append(
            (store, pairs.compare_layers(store, [0, 4, 8], folder / "pairs", place, lambda *_: None))
        )
    (alone, by_one), (shared, by_two) = found
    for layer in range(9):
        torch.testing.assert_close(shared.layer(layer), alone.layer(layer), rtol=1e-5, atol=1e-4)
    for layer, name in itertools.product((0, 4, 8), pairs.MEASURES):
        np.testing.assert_allclose(by_two[layer][name], by_one[layer][name], atol=1e-4)
    assert seen[:4] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert seen[4:] == sorted(seen[4:])
    assert (seen[4], seen[-1]) == ((0, 3), (3, 3))
    again = pairs.compare_layers(shared, [0, 4, 8], tmp_path / "2" / "pairs", ["cpu", "cpu"], lambda *_: None)
    np.testing.assert_array_equal(again[4]["margin"], by_two[4]["margin"])


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_device_whose_process_dies_ends_all(tmp_path):
    texts = {code: [f"{code} {i}" for i in range(20)] for code in ("en", "de", "sw", "cy")}

    def kill():
        while len(multiprocessing.active_children()) < 2:
            time.sleep(0.01)
        os.kill(multiprocessing.active_children()[-1].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with pytest.raises(EngineError, match=r"process of cpu ended early: .*SIGKILL.* to resume"):
        states.embed_languages("mini", None, texts, tmp_path, ["cpu", "cpu"], lambda *_: None)
    killer.join()
    assert not multiprocessing.active_children()
    with pytest.raises(EngineError, match="ended early: ValueError: 5 is too much"):
        devices.share_among_devices(up_to_four, [1, 2, 5], ["cpu", "cpu"], lambda *_: None)


def up_to_four(numbers):
    """Work that fails."""
    for number in numbers:
        if number > 4:
            raise ValueError(f"{number} is too much")
        yield
