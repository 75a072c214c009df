"""Which records stand together."""

import json

import pytest
from synthetic_records import ROLES, sha, share, write

from midalign.errors import RecordError
from midalign.leaderboard.build import build_board
from midalign.leaderboard.compare import compare_models
from midalign.leaderboard.load import load_runs
from midalign.leaderboard.section_figures import section_title
from midalign.leaderboard.sections import group_runs
from midalign.metrics import slot

SCORES = {"en": share(10, 9), "es": share(10, 8), "de": share(10, 4), "sw": share(10, 2), "fr": share(10, 5)}


def labels(section):
    return [row.label for row in section.rows]


def test_seeds_of_one_recipe_and_arm_are_one_row(tmp_path):
    write(tmp_path, "base", "base", SCORES)
    for seed in (3, 1, 2):
        write(tmp_path, f"z{5 - seed}", "baseline", SCORES, seed=seed)
        write(tmp_path, f"a{seed}", "aligned", SCORES, seed=seed)
    (section,) = group_runs(load_runs(tmp_path))
    assert labels(section) == ["base", "baseline", "aligned"]
    assert [run.record.seed for run in section.rows[1].runs] == [1, 2, 3]
    assert [section.role(code) for code in section.languages] == [
        "aligned",
        "supervised",
        "supervised",
        "unseen",
        "aligned",
    ]


@pytest.mark.parametrize(
    "other",
    [
        {"base": "gemma"},
        {"group": "midalign_slot"},
        {"limit": 10},
        {"decoding": {"regime": "constrained"}},
        {"batch_invariant": True},
        {"data": "altered"},
        {"prompt": "reworded"},
        {"max_gen_toks": 256},
        {"roles": {**ROLES, "aligned": ["de"], "unseen": ["fr", "sw"]}},
        {"doc_ids": dict.fromkeys(SCORES, range(1, 11))},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_differs_in_its_conditions_stands_apart(tmp_path, other):
    write(tmp_path, "one", "baseline", SCORES, seed=1, max_gen_toks=128)
    write(tmp_path, "two", "aligned", SCORES, seed=1, **{"max_gen_toks": 128, **other})
    assert [labels(section) for section in group_runs(load_runs(tmp_path))] in (
        [["baseline"], ["aligned"]],
        [["aligned"], ["baseline"]],
    )


def test_records_without_a_token_limit_stay_with_those_of_one_limit(tmp_path):
    """Older records do not have it. Where limits differ, they belong to neither."""
    write(tmp_path, "old", "baseline", SCORES, seed=1)
    write(tmp_path, "new", "aligned", SCORES, seed=1, max_gen_toks=128)
    assert [labels(section) for section in group_runs(load_runs(tmp_path))] == [["baseline", "aligned"]]
    write(tmp_path, "longer", "merged", SCORES, seed=1, max_gen_toks=256)
    assert sorted(map(labels, group_runs(load_runs(tmp_path)))) == [["aligned"], ["baseline"], ["merged"]]


def test_a_record_of_more_tasks_stands_beside_one_of_the_same_task_alone(tmp_path):
    """All tasks of a record have to share a limit on answers for the record to name it."""
    alone = {"generation": {"do_sample": False, "max_gen_toks": 128}}
    write(tmp_path, "one", "baseline", SCORES, seed=1, decoding=alone)
    write(tmp_path, "two", "aligned", SCORES, seed=1, decoding={"generation": {"do_sample": False}})
    write(tmp_path, "sampled", "aligned", SCORES, seed=1, decoding={"generation": {"do_sample": True}})
    assert sorted(map(labels, group_runs(load_runs(tmp_path)))) == [["aligned"], ["baseline", "aligned"]]


def test_the_two_regimes_never_stand_together(tmp_path):
    """Records from before there were two are free ones; one model may have a record of each."""
    write(tmp_path, "old", "baseline", SCORES, seed=1)
    write(tmp_path, "free", "aligned", SCORES, seed=1, decoding={"regime": "free"})
    for arm in ("baseline", "aligned"):
        write(tmp_path, f"{arm}-constrained", arm, SCORES, seed=1, decoding={"regime": "constrained"})
    found = {section.regime: section for section in group_runs(load_runs(tmp_path))}
    assert {regime: labels(section) for regime, section in found.items()} == {
        "free": ["baseline", "aligned"],
        "constrained": ["baseline", "aligned"],
    }
    assert {run.file for row in found["constrained"].rows for run in row.runs} == {
        "baseline-constrained.json",
        "aligned-constrained.json",
    }
    assert section_title(found["free"]) == "midalign_mini_slot, mini, full test split"
    assert (
        section_title(found["constrained"])
        == "midalign_mini_slot, mini, full test split, constrained decoding"
    )
    build_board(tmp_path, tmp_path / "board")
    assert {path.name for path in (tmp_path / "board" / "plots").iterdir()} == {
        "midalign_mini_slot-mini-test-full.png",
        "midalign_mini_slot-mini-test-full-constrained.png",
    }


def test_records_of_other_languages_stand_apart(tmp_path):
    write(tmp_path, "one", "baseline", SCORES, seed=1)
    write(tmp_path, "two", "aligned", {"en": SCORES["en"]}, seed=1)
    assert len(group_runs(load_runs(tmp_path))) == 2


def test_two_records_of_one_model_are_refused_with_both_names(tmp_path):
    write(tmp_path, "one", "baseline", SCORES, seed=1)
    write(tmp_path, "two", "baseline", SCORES, seed=1)
    with pytest.raises(RecordError, match=r"one\.json and two\.json are two records of one model"):
        group_runs(load_runs(tmp_path))


def test_recipes_with_the_same_arms_are_told_apart_by_label(tmp_path):
    for recipe in ("short", "long"):
        write(tmp_path, f"{recipe}-1", "baseline", SCORES, seed=1, recipe=recipe)
        write(tmp_path, f"{recipe}-2", "aligned", SCORES, seed=1, recipe=recipe)
    write(tmp_path, "changed", "aligned", SCORES, seed=1, recipe="long", recipe_digest="other")
    (section,) = group_runs(load_runs(tmp_path))
    found = labels(section)
    assert {"baseline (short)", "baseline (long)", "aligned (short)"} <= set(found)
    assert sum(label.startswith("aligned (long ") for label in found) == 2
    assert len(set(found)) == 5


def test_arms_stand_beside_the_baseline_of_their_recipe(tmp_path):
    """Arms have digests of their own; of records from before, all arms of a recipe have one."""
    for arm in ("baseline", "deep", "aligned"):
        write(tmp_path, f"{arm}-before", arm, SCORES, seed=1)
        own = f"mini {arm}"
        write(tmp_path, arm, arm, SCORES, seed=1, recipe_digest=own, recipe_baseline="mini baseline")
    (section,) = group_runs(load_runs(tmp_path))
    together = [["baseline", "aligned", "deep"]] * 2
    assert [row.arm for row in section.rows] == [arm for arms in together for arm in arms]
    _, differences = compare_models(section)
    assert {(one.model, one.baseline) for one in differences} == {
        (f"{arm} (mini {sha(own)[:7]})", f"baseline (mini {sha(baseline)[:7]})")
        for arm in ("aligned", "deep")
        for own, baseline in (("mini", "mini"), (f"mini {arm}", "mini baseline"))
    }


def test_engines_and_dtypes_are_rows_of_their_own(tmp_path):
    write(tmp_path, "one", "baseline", SCORES, seed=1)
    write(tmp_path, "two", "baseline", SCORES, seed=1, engine="vllm", dtype="bfloat16")
    (section,) = group_runs(load_runs(tmp_path))
    assert labels(section) == ["baseline (hf float32)", "baseline (vllm bfloat16)"]


def test_seeds_trained_in_other_dtypes_are_not_averaged(tmp_path):
    """What `dtype: auto` gives on machines with and without bf16, beside a record of before."""
    for seed, dtype in ((1, "bfloat16"), (2, "bfloat16"), (3, "float32"), (4, None)):
        write(tmp_path, f"b{seed}", "baseline", SCORES, seed=seed, training_dtype=dtype)
    (section,) = group_runs(load_runs(tmp_path))
    assert [(row.label, [run.record.seed for run in row.runs]) for row in section.rows] == [
        ("baseline (trained in bfloat16)", [1, 2]),
        ("baseline (trained in float32)", [3]),
        ("baseline (trained in unknown dtype)", [4]),
    ]


def test_bases_with_other_tokenizers_share_no_table(tmp_path):
    """Chat templates show in the prompts' digests, token ids and the ends of answers do not."""
    write(tmp_path, "before", "baseline", SCORES, seed=1)
    write(tmp_path, "a", "baseline", SCORES, seed=2, tokenizer="a")
    (section,) = group_runs(load_runs(tmp_path))
    assert section.tokenizer == sha("a")
    assert [run.record.seed for run in section.rows[0].runs] == [1, 2]
    write(tmp_path, "b", "baseline", SCORES, seed=3, tokenizer="b")
    write(tmp_path, "b2", "baseline", SCORES, seed=4, tokenizer="b")
    found = {section.tokenizer: section for section in group_runs(load_runs(tmp_path))}
    seeds = {key: [run.record.seed for run in one.rows[0].runs] for key, one in found.items()}
    assert seeds == {None: [1], sha("a"): [2], sha("b"): [3, 4]}
    build_board(tmp_path, tmp_path / "board")
    page = (tmp_path / "board" / "README.md").read_text()
    assert [page.count(f", tokenizer `{sha(name)[:12]}`") for name in "ab"] == [1, 1]
    assert len(list((tmp_path / "board" / "plots").iterdir())) == 3


def test_the_base_stands_with_every_recipe_on_it(tmp_path):
    other = {"supervised": ["en"], "aligned": ["de"], "unseen": ["es", "fr", "sw"]}
    write(tmp_path, "base", "base", SCORES)
    write(tmp_path, "one", "baseline", SCORES, seed=1)
    write(tmp_path, "two", "baseline", SCORES, seed=1, recipe="small", roles=other)
    found = group_runs(load_runs(tmp_path))
    assert [labels(section) for section in found] == [["base", "baseline"]] * 2


def test_adapters_trained_elsewhere_keep_their_names(tmp_path):
    write(tmp_path, "theirs", "adapter", SCORES, recipe=None)
    write(tmp_path, "ours", "adapter", SCORES, recipe=None)
    (section,) = group_runs(load_runs(tmp_path))
    assert labels(section) == ["adapter (ours)", "adapter (theirs)"]


CHINESE = {"en": share(10, 9), "zh": share(10, 4), "de": share(10, 5)}


def test_codes_of_one_language_are_one_role(tmp_path):
    """Tatoeba's pairs are in `zh_cn`, the mini benchmark's items in `zh`."""
    one = {"supervised": ["en"], "aligned": ["zh_cn"], "unseen": ["de"]}
    other = {"supervised": ["en"], "aligned": ["zh"], "unseen": ["de"]}
    write(tmp_path, "base", "base", CHINESE, roles=other)
    write(tmp_path, "baseline", "baseline", CHINESE, seed=1, roles=one)
    write(tmp_path, "aligned", "aligned", CHINESE, seed=1, roles=other)
    (section,) = group_runs(load_runs(tmp_path))
    assert labels(section) == ["base", "baseline", "aligned"]
    assert (section.supervised, section.aligned) == (("en",), ("zh", "zh_cn"))
    assert [section.role(code) for code in ("en", "zh", "de")] == ["supervised", "aligned", "unseen"]


def test_codes_of_one_language_with_different_roles_stand_apart(tmp_path):
    """Both were trained on Chinese labels and pairs, but `zh_tw` was supervised in one of them only."""
    scores = {"zh_cn": share(10, 4), "zh_tw": share(10, 5)}
    write(tmp_path, "one", "one", scores, seed=1, roles=roles_of(["zh_cn"], ["zh_tw"]))
    write(tmp_path, "two", "two", scores, seed=1, roles=roles_of(["zh_tw"], ["zh_cn"]))
    assert sorted(map(labels, group_runs(load_runs(tmp_path)))) == [["one"], ["two"]]


def roles_of(supervised, aligned):
    return {"supervised": supervised, "aligned": aligned, "unseen": []}


@pytest.mark.parametrize("older", ["mini", "mini-baseline-seed1", "mini-aligned-seed1"])
def test_a_metric_that_one_record_lacks_is_left_out_for_all(tmp_path, monkeypatch, older):
    """Its column counts as zeros there, which would be a difference of the versions and not of the models."""
    monkeypatch.setattr(slot, "DETAIL_METRICS", ("label_f1", "slot_f1_verbatim"))
    counts = {code: share(8, 5) for code in ("en", "es", "de", "sw", "fr")}
    write(tmp_path, "mini", "base", counts, recipe=None)
    write(tmp_path, "mini-baseline-seed1", "baseline", counts, seed=1)
    write(tmp_path, "mini-aligned-seed1", "aligned", counts, seed=1)
    path = tmp_path / f"{older}.json"
    content = json.loads(path.read_text())
    for task in content["tasks"].values():
        del task["metrics"]["slot_f1_verbatim"]
    path.write_text(json.dumps(content))
    (part,) = build_board(tmp_path, tmp_path / "board")
    assert "slot_f1_verbatim" not in part.section.metrics
    assert "label_f1" in part.section.metrics
    assert "slot_f1_verbatim" not in (tmp_path / "board" / "leaderboard.json").read_text()
