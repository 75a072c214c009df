"""A task that is not ours: a YAML file for lm-eval with data of its own, trained on as it stands."""

import json

import pytest

from midalign.errors import RecipeError, TaskError
from midalign.train.base_model import load_base
from midalign.train.recipe import load_recipe
from midalign.train.recipe_checks import check_roles
from midalign.train.run import train_recipe
from midalign.train.samples import SampleTokenizer
from midalign.train.task_samples import TaskSamples

YAML = """
task: capitals_{language}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/{language}.jsonl, validation: {folder}/{language}.jsonl}}}}
output_type: generate_until
training_split: train
validation_split: validation
test_split: validation
doc_to_text: "Q: {{{{question}}}}\\nA:"
doc_to_target: "{{{{answer}}}}"
"""


@pytest.fixture
def template(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for language, rows in {
        "en": [("Of Peru?", "Lima")],
        "de": [("Von Peru?", "Lima"), ("Von Kuba?", "Havanna")],
    }.items():
        lines = (json.dumps({"question": question, "answer": answer}) for question, answer in rows)
        (tmp_path / f"{language}.jsonl").write_text("\n".join(lines))
        (tmp_path / f"capitals_{language}.yaml").write_text(YAML.format(language=language, folder=tmp_path))
    return f"task=lm_eval:{tmp_path}/capitals_{{language}}.yaml"


@pytest.mark.slow
def test_a_recipe_trains_on_it(template, tmp_path):
    changes = [template, "supervised=[en, de]", "aligned=[tr]", "evaluate=false", "seeds=[1]", "updates=2"]
    changes += ["samples_per_update=3", "align.pairs_per_update=2", f"output={tmp_path}/out"]
    recipe = load_recipe("mini", changes)
    _, tokenizer = load_base("mini")
    samples = TaskSamples(recipe, SampleTokenizer(tokenizer, 128))
    texts = [tokenizer.decode(samples[i].prompt + samples[i].target) for i in range(len(samples))]
    begin, end = tokenizer.bos_token, tokenizer.eos_token
    assert texts == [
        f"{begin}Q: Of Peru?\nA: Lima{end}",
        f"{begin}Q: Von Peru?\nA: Lima{end}",
        f"{begin}Q: Von Kuba?\nA: Havanna{end}",
    ]
    assert len(samples.validation("de", 5)) == 2
    folders = train_recipe(recipe, lambda _: None)
    assert all((folder / "adapter_model.safetensors").is_file() for folder in folders)


def test_what_it_cannot_do_is_said_at_once(template):
    with pytest.raises(RecipeError, match=r"set evaluate=false, and score with lm_eval"):
        load_recipe("mini", [template])
    with pytest.raises(TaskError, match=r"is a single task, but the recipe has 4 languages"):
        check_roles(load_recipe("mini", ["task=lm_eval:gsm8k", "evaluate=false"]))
    with pytest.raises(TaskError, match=r"lm-eval has no single task named '.*capitals_fr.yaml'"):
        check_roles(load_recipe("mini", [template, "supervised=[fr]", "evaluate=false"]))
