"""Merging against what peft makes of the same adapters: deltas, not our own arithmetic."""

import itertools
import json
import math
import shutil
import subprocess
import sys
from types import SimpleNamespace

import peft
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from midalign import adapter, bases
from midalign.errors import AdapterError
from midalign.evaluate import run as evaluation
from midalign.hub_upload import plan_upload
from midalign.merge import merge_adapters
from midalign.merge.search import headline_share, search_weights
from midalign.merge.weights import MergeWeights
from midalign.merge.whole_model import merge_into_base

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
BASES = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig),
}


def base_of(kind="llama"):
    model, config = BASES[kind]
    torch.manual_seed(0)
    return model(config(**SIZES)).eval()


def saved(folder, seed, kind="llama", **lora):
    """A random adapter, by peft."""
    model = peft.get_peft_model(base_of(kind), peft.LoraConfig(**lora))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def deltas(folders, kind="llama"):
    """By folder and module, what peft adds to the weight."""
    model = None
    for number, folder in enumerate(folders):
        if model is None:
            model = peft.PeftModel.from_pretrained(base_of(kind), folder, adapter_name="0")
        else:
            model.load_adapter(folder, adapter_name=str(number))
    found = [{} for _ in folders]
    for name, module in model.named_modules():
        for number in range(len(folders)):
            if isinstance(module, peft.tuners.lora.LoraLayer) and str(number) in module.scaling:
                found[number][name] = module.get_delta_weight(str(number)).detach()
    return found


def summed(parts, weights):
    total = {}
    for part, weight in zip(parts, weights, strict=True):
        for name, delta in part.items():
            total[name] = total.get(name, 0) + weight * delta
    return total


@pytest.mark.parametrize("kind", BASES)
def test_cat_is_the_weighted_sum_of_peft_s_deltas(tmp_path, kind):
    """Different ranks, targets and scalings, rsLoRA and patterns among them."""
    one = saved(
        tmp_path / "1", 1, kind, r=4, lora_alpha=8, target_modules="all-linear", alpha_pattern={"q_proj": 3}
    )
    two = saved(
        tmp_path / "2",
        2,
        kind,
        r=3,
        lora_alpha=5,
        use_rslora=True,
        target_modules=["q_proj", "down_proj", "embed_tokens"],
        rank_pattern={"down_proj": 2},
    )
    found = merge_adapters([one, two], MergeWeights((0.7, -1.5)), tmp_path / "merged")
    assert (found.rank, found.error < 1e-6) == (7, True)
    *parts, whole = deltas([one, two, tmp_path / "merged"], kind)
    expected = summed(parts, (0.7, -1.5))
    assert whole.keys() == expected.keys()
    for name, delta in expected.items():
        torch.testing.assert_close(whole[name], delta, rtol=0, atol=1e-6 * float(delta.abs().max()))


@pytest.mark.parametrize("weights", [(0.7, 0.4), (0.7, -1.5)], ids=str)
@pytest.mark.parametrize(
    ("method", "of_peft"), [("svd", "svd"), ("linear", "linear"), ("ties", "ties_svd")], ids=str
)
def test_other_methods_are_peft_s(tmp_path, method, of_peft, weights):
    options = {"lora_alpha": 8, "target_modules": ["q_proj", "up_proj"]}
    folders = [saved(tmp_path / str(seed), seed, r=4, **options) for seed in (1, 2)]
    extra = {"density": 0.5} if method == "ties" else {}
    found = merge_adapters(folders, MergeWeights(weights), tmp_path / "merged", method=method, **extra)
    model = peft.PeftModel.from_pretrained(base_of(), folders[0], adapter_name="0")
    model.load_adapter(folders[1], adapter_name="1")
    model.add_weighted_adapter(["0", "1"], list(weights), "both", combination_type=of_peft, **extra)
    (whole,) = deltas([tmp_path / "merged"])
    assert found.rank == 4
    for name, module in model.named_modules():
        if name in whole:
            expected = module.get_delta_weight("both").detach()
            assert (whole[name] - expected).norm() < 1e-4 * expected.norm()
    parts = summed(deltas(folders), weights)
    far = max(float((whole[n] - parts[n]).norm() / parts[n].norm()) for n in whole)
    assert found.error == pytest.approx(far, rel=0.5)


def test_dare_keeps_the_sum_on_average(tmp_path):
    folders = [saved(tmp_path / str(seed), seed, r=2, target_modules=["q_proj"]) for seed in (1, 2)]
    parts = summed(deltas(folders), (1.0, 0.5))
    total = 0
    for seed in range(40):
        folder = tmp_path / f"dare{seed}"
        merge_adapters(
            folders, MergeWeights((1.0, 0.5)), folder, method="dare_linear", density=0.5, rank=32, seed=seed
        )
        total = total + summed(deltas([folder]), (1 / 40,))[next(iter(parts))]
    expected = parts[next(iter(parts))]
    assert (total - expected).norm() < 0.25 * expected.norm()


def test_layer_swapping_weighs_blocks_by_themselves(tmp_path):
    folders = [saved(tmp_path / str(seed), seed, r=2, target_modules="all-linear") for seed in (1, 2)]
    weights = MergeWeights((1.0, 0.5), ((range(1, 2), (0.0, 1.0)),))
    merge_adapters(folders, weights, tmp_path / "merged")
    one, two, whole = deltas([*folders, tmp_path / "merged"])
    for name, delta in whole.items():
        expected = two[name] if ".layers.1." in name else one[name] + 0.5 * two[name]
        torch.testing.assert_close(delta, expected, rtol=0, atol=1e-5)
    assert str(weights) == "1:0.5, 0:1 in 1-1"


def test_into_base_gives_the_logits_of_base_and_both(tmp_path):
    base = bases.resolve("mini")
    for seed, folder in enumerate((tmp_path / "1", tmp_path / "2")):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear"))
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder)
    merge_adapters([tmp_path / "1", tmp_path / "2"], MergeWeights((1.0, 1.0)), tmp_path / "merged")
    merge_into_base(tmp_path / "merged", "mini", tmp_path / "whole")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    both = peft.PeftModel.from_pretrained(plain, tmp_path / "1", adapter_name="1")
    both.load_adapter(tmp_path / "2", adapter_name="2")
    both.base_model.set_adapter(["1", "2"])
    ids = torch.arange(5, 25).unsqueeze(0)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    expected = both.eval()(ids).logits
    assert (whole(ids).logits - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (tmp_path / "whole" / "tokenizer.json").is_file()


def test_into_base_refuses_a_change_of_embeddings_that_the_output_layer_shares(tmp_path):
    base = bases.resolve("mini")
    for seed, targets in enumerate((["q_proj"], ["q_proj", "embed_tokens"])):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets))
        torch.manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:  # what begins as zero
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(tmp_path / str(seed))
    merge_adapters([tmp_path / "0", tmp_path / "1"], MergeWeights((1.0, 1.0)), tmp_path / "merged")
    with pytest.raises(AdapterError, match=r"is another model: its logits .* that the output layer shares"):
        merge_into_base(tmp_path / "merged", "mini", tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def manifest(folder, **values):
    known = {
        "name": folder.name,
        "arm": "baseline",
        "seed": 1,
        "recipe": adapter.RecipeRef(name="mini", digest="d" * 64),
        "base": "tiny",
        "base_digest": "b" * 64,
        "task": "midalign_mini_slot",
        "supervised": ["en"],
        "aligned": [],
        "layer": None,
        "pairs": None,
        "updates": 10,
        "tokens": 100,
        "seconds": 1.0,
        "packages": {},
        "training": {"task": 1.0},
    }
    made = adapter.Manifest(**{**known, **values})
    (folder / adapter.MANIFEST).write_text(made.model_dump_json())


def test_a_merged_adapter_says_what_it_was_made_of(tmp_path):
    task, align = (saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in ("task", "align"))
    manifest(task)
    manifest(align, aligned=["de"], layer=2, pairs="tatoeba", supervised=[], updates=7)
    merge_adapters([task, align], MergeWeights((1.0, 0.5)), tmp_path / "merged", method="svd")
    found = adapter.read_manifest(tmp_path / "merged")
    assert (found.arm, found.name) == ("merged svd 1:0.5", "task+align@svd_1_0.5")
    assert (found.supervised, found.aligned, found.layer, found.updates) == (["en"], ["de"], 2, 17)
    assert found.dtype is None
    assert [(p.name, p.digest) for p in found.parents] == [
        ("task", adapter.adapter_digest(task)),
        ("align", adapter.adapter_digest(align)),
    ]
    for number, (of_task, of_align, expected) in enumerate(
        [
            ("bfloat16", "bfloat16", "bfloat16"),
            ("float32", "bfloat16", "bfloat16, float32"),
            (None, "float32", None),
        ]
    ):
        manifest(task, dtype=of_task)
        manifest(align, dtype=of_align)
        merge_adapters([task, align], MergeWeights((1.0, 0.5)), tmp_path / f"dtypes-{number}")
        assert adapter.read_manifest(tmp_path / f"dtypes-{number}").dtype == expected
    for number, (of_task, of_align) in enumerate([("1" * 64, "1" * 64), (None, "1" * 64), ("1" * 64, None)]):
        manifest(task, tokenizer_digest=of_task)
        manifest(align, tokenizer_digest=of_align)
        merge_adapters([task, align], MergeWeights((1.0, 0.5)), tmp_path / f"tokenizers-{number}")
        merged = adapter.read_manifest(tmp_path / f"tokenizers-{number}")
        assert merged.tokenizer_digest == "1" * 64
    third = saved(tmp_path / "third", 1, r=2, target_modules=["q_proj"])
    manifest(task)
    manifest(align, tokenizer_digest="1" * 64)
    manifest(third, tokenizer_digest="2" * 64)
    with pytest.raises(AdapterError, match=r"align and .*third were trained with different tokenizers"):
        merge_adapters([task, align, third], MergeWeights((1.0, 1.0, 1.0)), tmp_path / "again")
    manifest(align, base="other", base_digest="c" * 64)
    with pytest.raises(AdapterError, match=r"trained on tiny and .* on other, which have different weights"):
        merge_adapters([task, align], MergeWeights((1.0, 1.0)), tmp_path / "again")


def test_a_merged_adapter_has_a_card_and_the_settings_of_its_parents(tmp_path):
    task, align = (saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in ("task", "align"))
    config = json.loads((task / adapter.CONFIG).read_text())
    (task / adapter.CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": str(tmp_path)}))
    manifest(task, settings={"learning_rate": 0.1}, base_hub_id="org/tiny", base_licence="mit")
    manifest(align, aligned=["de"], layer=2, pairs="tatoeba", settings={"align": {"weight": 0.25}})
    merge_adapters([task, align], MergeWeights((1.0, 0.5)), tmp_path / "merged")
    found = adapter.read_manifest(tmp_path / "merged")
    assert found.settings is None
    assert [p.settings for p in found.parents] == [{"learning_rate": 0.1}, {"align": {"weight": 0.25}}]
    assert str(tmp_path) not in (tmp_path / "merged" / adapter.CONFIG).read_text()
    assert adapter.adapter_config(tmp_path / "merged")["base_model_name_or_path"] == "org/tiny"
    card = ModelCard.load(tmp_path / "merged" / "README.md")
    assert (card.data.base_model, card.data.license) == ("org/tiny", "mit")
    assert "merged by midalign from `task` and `align` (1:0.5)" in str(card)
    assert "### align\n\n```yaml\nalign:\n  weight: 0.25\n```" in str(card)
    assert plan_upload(tmp_path / "merged", "team").repository == "team/task-align-1_0.5"


def test_merges_of_merges_keep_the_settings_of_all_trained_adapters(tmp_path):
    names = ("task", "align", "more")
    folders = {name: saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in names}
    for number, (name, folder) in enumerate(folders.items()):
        manifest(folder, name=name, settings={"learning_rate": number})
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    merge_adapters([folders["task"], folders["align"]], MergeWeights((1.0, 0.5)), first)
    merge_adapters([first, folders["more"]], MergeWeights((1.0, 1.0)), second)
    merge_adapters([second, folders["align"]], MergeWeights((1.0, 1.0)), third)
    found = adapter.read_manifest(third)
    expected = [(name, {"learning_rate": number}) for number, name in enumerate(names)]
    assert found.known_settings == expected
    merge, align = found.parents
    assert [parent.name for parent in merge.parents[0].parents] == ["task", "align"]
    assert merge.parents[0].digest == adapter.adapter_digest(first)
    assert align.parents is None
    card = ModelCard.load(third / "README.md").content
    assert all(
        card.count(f"### {name}\n\n```yaml\nlearning_rate: {n}\n") == 1 for n, name in enumerate(names)
    )
    assert merge.described == (
        "task+align@1_0.5+more@1_1 (merged from task+align@1_0.5 (merged from task, align), more)"
    )


def test_manifests_of_earlier_merges_load(tmp_path):
    folder = saved(tmp_path / "old", 1, r=2, target_modules=["q_proj"])
    manifest(folder, parents=[{"name": "x", "digest": "c" * 64, "settings": {"seed": 1}}])
    content = json.loads((folder / adapter.MANIFEST).read_text())
    del content["parents"][0]["parents"]
    (folder / adapter.MANIFEST).write_text(json.dumps(content))
    assert adapter.read_manifest(folder).known_settings == [("x", {"seed": 1})]


@pytest.mark.parametrize("known_by", ["digest", "name"])
def test_bases_are_compared_in_all_pairs(tmp_path, known_by):
    """The first adapter's base is unknown, so a comparison with it alone would accept any others."""
    folders = [saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in ("unknown", "a", "b")]
    for folder, base in zip(folders, (None, "org/one", "org/two"), strict=True):
        config = json.loads((folder / adapter.CONFIG).read_text())
        named = base if known_by == "name" else None
        (folder / adapter.CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": named}))
        if known_by == "digest" and base:
            manifest(folder, base=base, base_digest=base[-1] * 64)
    for number, sources in enumerate(itertools.permutations(folders)):
        with pytest.raises(AdapterError, match=r"[ab] was trained on org/.* different weights"):
            merge_adapters(sources, MergeWeights((1.0, 1.0, 1.0)), tmp_path / str(number))
    merge_adapters(folders[:2], MergeWeights((1.0, 1.0)), tmp_path / "merged")


@pytest.mark.parametrize(
    ("named", "in_manifest", "same"),
    [
        ("google/gemma-3-270m", {"base": "gemma-3-270m"}, True),
        ("google/gemma-3-270m", {"base": "my-copy", "base_hub_id": "google/gemma-3-270m"}, True),
        (None, {"base": "gemma-3-270m"}, True),
        ("google/gemma-3-1b", {"base": "gemma-3-270m"}, False),
    ],
)
def test_an_adapter_of_a_local_base_merges_with_a_foreign_one_of_the_same_base(
    tmp_path, named, in_manifest, same
):
    """Adapters of a local base have no name of the base in their configuration."""
    mine, foreign = (
        saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in ("mine", "foreign")
    )
    for folder, base in ((mine, None), (foreign, named)):
        config = json.loads((folder / adapter.CONFIG).read_text())
        (folder / adapter.CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": base}))
    manifest(mine, **in_manifest)
    for number, sources in enumerate(([mine, foreign], [foreign, mine])):
        if same:
            merge_adapters(sources, MergeWeights((1.0, 1.0)), tmp_path / str(number))
        else:
            with pytest.raises(AdapterError, match="which have different weights"):
                merge_adapters(sources, MergeWeights((1.0, 1.0)), tmp_path / str(number))


def test_a_merged_adapter_has_the_same_digest_in_every_working_directory(tmp_path, monkeypatch):
    task, align = (saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in ("task", "align"))
    for folder in (task, align):
        config = json.loads((folder / adapter.CONFIG).read_text())
        (folder / adapter.CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": "org/tiny"}))
    merge_adapters([task, align], MergeWeights((1.0, 0.5)), tmp_path / "elsewhere")
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    merge_adapters([task, align], MergeWeights((1.0, 0.5)), tmp_path / "here")
    assert adapter.adapter_digest(tmp_path / "here") == adapter.adapter_digest(tmp_path / "elsewhere")


def test_merges_with_different_alignments_are_different_models_beside_one_baseline(tmp_path):
    """On the board they are rows, not two records of one model."""
    task, *aligns = (saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in ("task", "a", "b"))
    manifest(task, recipe={"name": "r", "digest": "baseline", "baseline": "baseline"})
    for align in aligns:
        manifest(align, recipe={"name": "r", "digest": align.name, "baseline": "baseline"})
    found = []
    for align in aligns:
        merge_adapters([task, align], MergeWeights((1.0, 1.0)), tmp_path / f"with-{align.name}")
        found.append(adapter.read_manifest(tmp_path / f"with-{align.name}"))
    assert len({one.recipe.digest for one in found}) == 2
    assert {one.recipe.baseline for one in found} == {"baseline"}
    manifest(task, recipe={"name": "r", "digest": "before"})
    merge_adapters([task, aligns[0]], MergeWeights((1.0, 1.0)), tmp_path / "old")
    assert adapter.read_manifest(tmp_path / "old").recipe.baseline == "before"


def test_a_merged_adapter_has_the_languages_of_all_its_parents(tmp_path):
    """A baseline names its recipe's aligned languages without having been aligned, an adapter of alignment
    alone its supervised ones."""
    known = {
        "task": {"supervised": ["en"], "aligned": ["tr"], "unseen": ["de", "hi", "ja"]},
        "second": {"supervised": ["es"], "aligned": ["hi"], "layer": 2},
        "align": {"supervised": ["ru"], "aligned": ["de", "es"], "layer": 3, "training": {"alignment": 1.0}},
    }
    for name, values in known.items():
        manifest(saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]), **values)
    merge_adapters([tmp_path / name for name in known], MergeWeights((1.0, 0.5, 1.0)), tmp_path / "merged")
    found = adapter.read_manifest(tmp_path / "merged")
    assert (found.supervised, found.aligned, found.unseen) == (["en", "es"], ["hi", "de"], ["ja"])
    assert found.layer == 2


def test_a_merged_adapter_has_no_unseen_language_that_a_parent_had_by_another_code(tmp_path):
    known = {
        "task": {"supervised": ["en"], "aligned": [], "unseen": ["de", "zh"]},
        "align": {"supervised": [], "aligned": ["zh_cn"], "layer": 3, "training": {"alignment": 1.0}},
    }
    for name, values in known.items():
        manifest(saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]), **values)
    merge_adapters([tmp_path / name for name in known], MergeWeights((1.0, 1.0)), tmp_path / "merged")
    found = adapter.read_manifest(tmp_path / "merged")
    assert (found.supervised, found.aligned, found.unseen) == (["en"], ["zh_cn"], ["de"])


def test_a_merged_adapter_names_the_training_text_of_all_its_parents(tmp_path):
    one, two, old = (saved(tmp_path / n, 1, r=2, target_modules=["q_proj"]) for n in ("one", "two", "old"))
    slots = {"kind": "task", "source": "midalign_mini_slot", "languages": ["en"], "digest": "a" * 64}
    pairs = {"kind": "pairs", "source": "p/{language}.tsv", "languages": ["de"], "digest": "b" * 64}
    manifest(one, trained_on=[slots])
    manifest(two, trained_on=[slots, pairs], layer=2, pairs="p/{language}.tsv")
    manifest(old, task="midalign_mini_mt", pairs="tatoeba", layer=2, aligned=["hi"])

    def sources(folder):
        found = adapter.read_manifest(folder).training_text
        return found and [(text.source, text.digest) for text in found]

    merge_adapters([one, two], MergeWeights((1.0, 1.0)), tmp_path / "merged")
    assert sources(tmp_path / "merged") == [("midalign_mini_slot", "a" * 64), ("p/{language}.tsv", "b" * 64)]
    merge_adapters([one, old], MergeWeights((1.0, 1.0)), tmp_path / "with-old")
    assert sources(tmp_path / "with-old") == [
        ("midalign_mini_slot", "a" * 64),
        ("midalign_mini_mt", None),
        ("tatoeba", None),
    ]
    manifest(old, parents=[{"name": "x", "digest": "c" * 64}, {"name": "y", "digest": "d" * 64}])
    assert sources(old) is None  # of older merges, only the first parent's task is known
    merge_adapters([one, old], MergeWeights((1.0, 1.0)), tmp_path / "unknown")
    assert sources(tmp_path / "unknown") is None


def test_languages_of_a_task_are_kept_when_its_last_update_was_pairs_alone(tmp_path):
    """`alternate: update` ends with alignment; its log still has the task's losses."""
    task, second, align = (
        saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in ("task", "second", "align")
    )
    manifest(task)
    for folder, code, losses in ((second, "es", {"task": 2.0}), (align, "ru", {"preservation": 0.1})):
        manifest(folder, supervised=[code], aligned=["hi"], layer=2, training={"alignment": 1.0})
        lines = ({"update": 1, "losses": losses}, {"update": 1, "measures": {}})
        (folder / "training.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    merge_adapters([task, second, align], MergeWeights((1.0, 1.0, 1.0)), tmp_path / "merged")
    assert adapter.read_manifest(tmp_path / "merged").supervised == ["en", "es"]


def test_an_adapter_that_acts_after_its_invocation_tokens_alone_is_refused(tmp_path):
    """Merged, an aLoRA adapter would act on every token."""
    one, two = (saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in ("one", "two"))
    config = two / adapter.CONFIG
    config.write_text(json.dumps({**json.loads(config.read_text()), "alora_invocation_tokens": [3, 4]}))
    with pytest.raises(AdapterError, match="alora_invocation_tokens"):
        merge_adapters([one, two], MergeWeights((1.0, 1.0)), tmp_path / "merged")


def test_names_tell_merges_apart_and_fit_into_a_file_s_name(tmp_path):
    folders = [saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in ("task", "align")]
    for folder in folders:
        manifest(folder)
    names = set()
    blocks = tuple((range(1, 2), (0.5, weight / 64)) for weight in range(40))
    for number, (weights, how) in enumerate(
        [
            (MergeWeights((1.0, 1.0)), {"method": "svd", "rank": 1}),
            (MergeWeights((1.0, 1.0)), {"method": "svd", "rank": 2}),
            (MergeWeights((1.0, 1.0)), {"method": "ties", "density": 0.2}),
            (MergeWeights((1.0, 1.0)), {"method": "ties", "density": 0.8}),
            (MergeWeights((1.0, 1.0), blocks), {}),
            (MergeWeights((1.0, 1.0), blocks[:-1]), {}),
        ]
    ):
        merge_adapters(folders, weights, tmp_path / str(number), **how)
        found = adapter.read_manifest(tmp_path / str(number))
        assert len(found.name) <= 80
        names.add((found.name, found.arm))
    assert len({name for name, _ in names}) == len({arm for _, arm in names}) == 6
    assert ("task+align@ties_1_1_density_0.2", "merged ties 1:1 density 0.2") in names


@pytest.mark.parametrize(
    ("weights", "how", "message"),
    [
        (MergeWeights((math.nan, 1.0)), {}, "weights nan:1: expected finite numbers"),
        (MergeWeights((0.0, 0.0)), {}, "weights 0:0 are all 0"),
        (MergeWeights((1.0, 1.0)), {"rank": 2}, "cat has a fixed rank. Only svd, ties"),
        (
            MergeWeights((1.0, 1.0)),
            {"method": "svd", "density": 0.2},
            "svd keeps all entries. A density is for ties",
        ),
        (
            MergeWeights((1.0, 1.0), ((range(7, 9), (0.0, 1.0)),)),
            {},
            "in-blocks 7-8: .* but in blocks 0 to 2",
        ),
        (
            MergeWeights((1.0, 1.0), ((range(2, 1), (0.0, 1.0)),)),
            {},
            "in-blocks 2-0: .* change nothing there",
        ),
    ],
)
def test_what_would_do_nothing_is_refused(tmp_path, weights, how, message):
    folders = [saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in ("one", "two")]
    with pytest.raises(AdapterError, match=message):
        merge_adapters(folders, weights, tmp_path / "merged", **how)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_an_adapter_that_diverged_is_named_by_its_module(tmp_path):
    one, two = (saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in ("one", "two"))
    tensors = load_file(two / adapter.WEIGHTS)
    next(tensor for name, tensor in tensors.items() if "layers.1" in name)[0] = math.inf
    save_file(tensors, two / adapter.WEIGHTS)
    with pytest.raises(AdapterError, match=r"layers\.1\.self_attn\.q_proj gives numbers that are not finite"):
        merge_adapters([one, two], MergeWeights((1.0, 1.0)), tmp_path / "merged")


def test_a_score_is_a_share_in_every_family():
    def task(family, name, value):
        return SimpleNamespace(family=family, metrics={name: SimpleNamespace(value=value)})

    entry = SimpleNamespace(tasks={"a": task("slot", "slot_f1", 0.5), "b": task("translation", "chrf", 30.0)})
    assert headline_share(entry) == pytest.approx(0.4)


def test_what_cannot_be_merged_is_refused_and_leaves_nothing(tmp_path):
    options = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
    plain = saved(tmp_path / "plain", 1, **options)
    wrong = {
        "DoRA": saved(tmp_path / "dora", 1, use_dora=True, **options),
        "more than LoRA matrices": saved(tmp_path / "head", 1, modules_to_save=["lm_head"], **options),
        "has 32 inputs and": saved(tmp_path / "shape", 1, **options),
        "initialised by pissa": saved(tmp_path / "pissa", 1, **options),
        "lacks a factor": saved(tmp_path / "half", 1, **options),
        r"target_parameters: mlp\.experts\.up_proj\), such as": saved(tmp_path / "experts", 1, **options),
    }
    folder = tmp_path / "shape"
    tensors = load_file(folder / adapter.WEIGHTS)
    save_file(
        {n: torch.zeros(t.shape[0] + 1, *t.shape[1:]) for n, t in tensors.items()}, folder / adapter.WEIGHTS
    )
    half = dict(list(load_file(tmp_path / "half" / adapter.WEIGHTS).items())[1:])
    save_file(half, tmp_path / "half" / adapter.WEIGHTS)
    config = json.loads((tmp_path / "pissa" / adapter.CONFIG).read_text())
    (tmp_path / "pissa" / adapter.CONFIG).write_text(json.dumps({**config, "init_lora_weights": "pissa"}))
    config = {**config, "target_parameters": ["mlp.experts.up_proj"]}
    (tmp_path / "experts" / adapter.CONFIG).write_text(json.dumps(config))
    before = sorted(tmp_path.iterdir())
    for message, other in wrong.items():
        with pytest.raises(AdapterError, match=message):
            merge_adapters([plain, other], MergeWeights((1.0, 1.0)), tmp_path / "merged")
    other = saved(tmp_path / "other", 1, **{**options, "r": 3})
    with pytest.raises(AdapterError, match="linear adds factors"):
        merge_adapters([plain, other], MergeWeights((1.0, 1.0)), tmp_path / "merged", method="linear")
    with pytest.raises(AdapterError, match="already exists"):
        merge_adapters([plain, other], MergeWeights((1.0, 1.0)), plain)
    assert sorted(tmp_path.iterdir()) == sorted([*before, other])


def midalign(*words, check=True):
    command = [sys.executable, "-m", "midalign", "merge", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done


def test_the_command_merges_and_refuses(tmp_path):
    one, two = (saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in ("one", "two"))
    done = midalign(one, two, "--output", tmp_path / "both", "--weights", "1,0.5", "--in-blocks", "0-1=0,1")
    assert "cat of 2 adapters, weights 1:0.5, 0:1 in 0-1, rank 4, 3 modules" in " ".join(done.stdout.split())
    for words, message in (
        ((one, two, "--output", "x", "--weights", "1"), "is not a weight for each of 2 adapters"),
        ((one, two, "--output", "x", "--weights", "1,1", "--weights", "1,2"), "--search TASKS"),
        ((one, two, "--output", tmp_path / "both"), "already exists"),
        ((one, two, "--output", "x", "--into-base"), "--base MODEL"),
        ((one, "--output", "x"), "at least two adapters"),
        ((one, two, "--output", "x", "--limit", "3"), "--limit is for --search"),
        ((one, two, "--output", "x", "--system-instruction", "Be brief."), "are for --search"),
    ):
        done = midalign(*words, check=False)
        assert done.returncode
        assert message in " ".join(done.stderr.replace("│", " ").split())
        assert "Traceback" not in done.stderr


def test_a_search_asks_as_the_adapters_were_trained(tmp_path, monkeypatch):
    asked = []

    def evaluated(settings, _):
        asked.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "evaluate_models", evaluated)
    sources = [saved(tmp_path / name, 1, r=2, target_modules=["q_proj"]) for name in ("one", "two")]
    prompts = {"apply_chat_template": True, "system_instruction": "Be brief."}
    for chosen in ({}, prompts):
        with pytest.raises(KeyboardInterrupt):
            search_weights(
                sources,
                [MergeWeights((1.0, 0.5))],
                tmp_path / "search",
                base="mini",
                tasks=["midalign_mini_slot_en"],
                limit=4,
                report=lambda _: None,
                **chosen,
            )
    assert {key: vars(asked[1])[key] for key in prompts} == prompts
    assert asked[0].output != asked[1].output


@pytest.mark.slow
def test_a_search_scores_every_candidate_on_dev_and_writes_the_best(tmp_path):
    base = bases.resolve("mini")
    for name, std in (("task", 0.02), ("align", 0.1)):
        model = peft.get_peft_model(
            AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=2, target_modules="all-linear")
        )
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=std)
        model.save_pretrained(tmp_path / name)
        manifest(tmp_path / name, base="mini", base_digest=adapter.base_digest(base))
    words = [tmp_path / "task", tmp_path / "align", "--output", tmp_path / "best", "--base", "mini"]
    words += ["--search", "midalign_mini_slot_en", "--limit", "4", "--weights", "1,0.5", "--weights", "1,2"]
    done = midalign(*words)
    ranked = [line.split() for line in done.stdout.splitlines()[:2]]
    assert sorted(weights for _, weights in ranked) == ["1:0.5", "1:2"]
    assert float(ranked[0][0]) >= float(ranked[1][0])
    records = list((tmp_path / "best.search").glob("results-*/*.json"))
    assert len(records) == 2
    assert {json.loads(path.read_text())["sample"]["split"] for path in records} == {"validation"}
    assert adapter.read_manifest(tmp_path / "best").arm == f"merged {ranked[0][1]}"

    # The same weights by another method, and tasks, are other candidates and scores.
    candidates = {path.name for path in (tmp_path / "best.search").iterdir()}
    shutil.rmtree(tmp_path / "best")
    words[words.index("--search") + 1] = "midalign_mini_mt_en-de"
    done = midalign(*words, "--method", "svd", "--weights", "1.0,2.0")
    ranked = [line.split() for line in done.stdout.splitlines() if line[:1] == " "]
    assert sorted(weights for _, weights in ranked) == ["1:0.5", "1:2"]
    assert all(float(score) < 100 for score, _ in ranked)
    assert len(list((tmp_path / "best.search").iterdir())) == 2 * len(candidates)
    assert adapter.read_manifest(tmp_path / "best").arm == f"merged svd {ranked[0][1]}"
