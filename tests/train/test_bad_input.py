"""What goes wrong in training ends on one screen that says what to change."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertLMHeadModel, Gemma3Config

from midalign import bases
from midalign.errors import BaseModelError, RecipeError, TrainingError
from midalign.train import base_model, recipe_checks, run
from midalign.train.build import build_arm
from midalign.train.recipe import load_recipe
from midalign.train.run import train_recipe
from midalign.train.samples import SampleTokenizer
from midalign.train.task_samples import TaskSamples

SMALL = ["seeds=[1]", "updates=3", "samples_per_update=2", "arms={baseline: null}", "evaluate=false"]


@pytest.fixture(scope="module")
def mini():
    return base_model.load_base("mini")


def test_a_loss_that_is_no_number_stops_and_names_the_batch(tmp_path):
    recipe = load_recipe(
        "mini", [*SMALL, f"output={tmp_path}", "learning_rate=1e30", "warmup=0.0", "save_every=1"]
    )
    with pytest.raises(
        TrainingError, match=r"task loss of update \d is (nan|inf).*training documents \d+, \d+"
    ):
        train_recipe(recipe, lambda _: None)
    assert not list(tmp_path.glob("adapters/baseline*"))


def test_memory_that_is_full_names_the_setting():
    recipe = load_recipe("mini", ["max_batch_tokens=4096"])
    with (
        pytest.raises(TrainingError, match=r"max_batch_tokens \(now 4096\).*recompute=true"),
        run.name_full_memory(recipe),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    with pytest.raises(RuntimeError, match="shapes"), run.name_full_memory(recipe):
        raise RuntimeError("shapes differ")


def test_a_module_that_the_base_lacks(mini):
    lora = load_recipe("mini", ["lora.targets=[q_proj, c_attn]"]).lora
    with pytest.raises(RecipeError, match=r"no modules named c_attn .*down_proj, gate_proj.*all-linear"):
        base_model.with_adapter(mini[0], lora)


def test_fields_of_lora_and_training_arguments():
    lora = load_recipe("mini", ["lora.use_rslora=true"]).lora
    model = base_model.with_adapter(base_model.load_base("mini")[0], lora)
    assert model.peft_config["default"].use_rslora
    lora = load_recipe("mini", ["lora.use_rslore=true"]).lora
    with pytest.raises(
        RecipeError, match=r"lora.use_rslore is no field of peft's LoraConfig. Did you mean use_rslora"
    ):
        base_model.with_adapter(base_model.load_base("mini")[0], lora)
    for changes, message in (
        ("arguments={max_grad_nrm: 0.5}", "Did you mean max_grad_norm"),
        ("arguments={max_steps: 5}", "Set the recipe's key updates"),
        ("arguments={bf16: false}", "Set the recipe's key dtype"),
        ("arguments={gradient_accumulation_steps: 4}", "Set the recipe's key max_batch_tokens"),
        ("arguments={dataloader_drop_last: true}", "arguments.dataloader_drop_last is not allowed"),
        ("arguments={max_grad_norm: much}", r"arguments.max_grad_norm: .*found 'much'"),
    ):
        with pytest.raises(RecipeError, match=message):
            build_arm(load_recipe("mini", [changes]), "baseline", 1, None)


def test_training_arguments_have_the_types_of_their_fields(tmp_path):
    recipe = load_recipe("mini", ["arguments={adam_epsilon: 1e-6, max_grad_norm: 2}"])
    assert recipe.arguments["adam_epsilon"] == "1e-6"  # as YAML reads it
    trained = build_arm(recipe, "baseline", 1, tmp_path).trainer.args
    assert (trained.adam_epsilon, trained.max_grad_norm) == (1e-6, 2.0)


@pytest.mark.parametrize(("dtype", "has_bf16"), [("auto", True), ("auto", False), ("float32", True)])
def test_a_recipe_fixes_the_dtype_and_auto_takes_the_machines(tmp_path, monkeypatch, dtype, has_bf16):
    monkeypatch.setattr("midalign.device.has_bf16", lambda: has_bf16)
    arm = build_arm(load_recipe("mini", [f"dtype={dtype}"]), "baseline", 1, tmp_path)
    in_half = dtype == "auto" and has_bf16
    assert arm.trainer.args.bf16 == in_half
    linear = {m.weight.dtype for n, m in arm.trainer.model.named_modules() if n.endswith("base_layer")}
    assert linear == {torch.bfloat16 if in_half else torch.float32}


def test_the_launcher_does_not_change_the_dtype_of_a_recipe(tmp_path, monkeypatch):
    """As `accelerate launch --mixed_precision bf16` sets it."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    arm = build_arm(load_recipe("mini", ["dtype=float32"]), "baseline", 1, tmp_path)
    assert arm.trainer.accelerator.mixed_precision == "no"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["align.pairs_per_update=1"], "one pair has no negatives.*pairs_per_update=2"),
        (
            ["align.pairs_per_update=4", "align.alternate=micro", "align.cycles=4"],
            "one pair has no negatives.*pairs_per_update=8",
        ),
        (["align.until=0"], "never align"),
    ],
)
def test_alignment_that_cannot_act(changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("mini", changes)


def test_an_encoder_is_no_base(mini):
    base_model.check_causal("mini", mini[0])
    sizes = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    encoder = BertLMHeadModel(BertConfig(**sizes, num_attention_heads=4))
    with pytest.raises(BaseModelError, match="later tokens change the states of earlier ones"):
        base_model.check_causal("bert", encoder)


def test_a_vision_tower_gets_no_adapter():
    sizes = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Gemma3Config(
        text_config=sizes | heads,
        vision_config=vision | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        boi_token_index=50,
        eoi_token_index=51,
        image_token_index=52,
    )
    recipe = load_recipe("mini", ["lora.targets=all-linear"])
    model = base_model.with_adapter(AutoModelForCausalLM.from_config(config), recipe.lora)
    adapted = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(adapted) == 2 * 2 * 7  # two factors for seven linear layers of two text blocks
    assert not [name for name in adapted if "vision" in name or "projector" in name]


def test_pairs_that_do_not_share_out():
    align = load_recipe("mini", ["align.pairs_per_update=32"]).align
    recipe_checks.check_share(align, 4)
    with pytest.raises(RecipeError, match=r"3 processes cannot share 32 pairs evenly.*multiple of 3"):
        recipe_checks.check_share(align, 3)
    parts = load_recipe(
        "mini", ["align.pairs_per_update=12", "align.alternate=micro", "align.cycles=2"]
    ).align
    with pytest.raises(RecipeError, match=r"4 processes cannot share 6 pairs evenly.*multiple of 8"):
        recipe_checks.check_share(parts, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["max_batch_tokens=2048"], "different numbers of forward passes. Set recompute=true"),
        (
            ["samples_per_update=3"],
            "samples_per_update=3 leaves some without a sample. Set samples_per_update=4",
        ),
        (
            ["samples_per_update=7", "align.alternate=micro", "align.cycles=2"],
            "Set samples_per_update=8 or more",
        ),
        (["align.learn_temperature=true"], "learn_temperature adds a weight outside the model"),
    ],
)
def test_what_sharded_processes_cannot_do(changes, message):
    recipe_checks.check_sharded(load_recipe("mini"), 4)
    with pytest.raises(RecipeError, match=f"4 processes train sharded.*{message}"):
        recipe_checks.check_sharded(load_recipe("mini", changes), 4)


def test_deepspeed_that_parts_the_base_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.integrations.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(RecipeError, match="--zero_stage 2, or FSDP"):
        build_arm(load_recipe("mini"), "baseline", 1, tmp_path)


def test_a_base_without_chat_template(mini):
    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("mini"))
    tokenizer.chat_template = None
    with pytest.raises(RecipeError, match=r"the tokenizer of mini has none\. Set chat_template=false"):
        recipe_checks.check_template(load_recipe("mini", ["chat_template=true"]), tokenizer)


def test_a_tokenizer_that_lost_its_bos(mini, monkeypatch):
    """Bits as measured on Gemma 3 270M after a conversion, since the mini base hardly needs BOS."""
    bits = {True: 0.99, False: 1.95}
    bos = mini[0].config.bos_token_id
    monkeypatch.setattr(
        "midalign.align.likelihood.bits_per_character", lambda _, ids, *__: bits[ids[0][0] == bos]
    )
    base_model.check_bos("mini", *mini)  # puts its BOS by itself

    class Lost:
        pad_token_id = 0

        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": mini[1](text)["input_ids"][1:]}

    with pytest.raises(
        BaseModelError, match=r"puts no BOS .* 1.95 bits per character without it and 0.99 with it"
    ):
        base_model.check_bos("mini", mini[0], Lost())


def test_samples_that_are_too_long_are_cut_or_left_out_and_counted(mini, caplog):
    recipe = load_recipe("mini", ["max_tokens=80"])
    cut = [s for s in map(TaskSamples(recipe, SampleTokenizer(mini[1], 80)).__getitem__, range(300)) if s.cut]
    assert cut
    assert all(len(sample.prompt) + len(sample.target) == 80 for sample in cut)
    dropping = TaskSamples(
        load_recipe("mini", ["max_tokens=80", "too_long=drop"]), SampleTokenizer(mini[1], 80)
    )
    with caplog.at_level("INFO"):
        kept = len(dropping)
    assert 0 < kept < 6000
    assert f"{6000 - kept} of 6000 samples are longer than max_tokens and dropped" in caplog.text
    assert not any(dropping[position].cut for position in range(0, kept, 50))
    with pytest.raises(RecipeError, match=r"an answer takes \d+ tokens, and max_tokens is 4"):
        SampleTokenizer(mini[1], 4).sample("Slots:", " genre: jazz; device: TV")


def test_an_answer_of_nothing_is_refused(mini):
    samples = TaskSamples(load_recipe("mini"), SampleTokenizer(mini[1], 128))
    task, document = samples.every[0]
    with pytest.raises(RecipeError, match="midalign_mini_slot_en: a training document has no answer"):
        samples.render(task, {**document, "target": " "})


def test_a_boundary_that_merges_changes_neither_prompt_nor_answer(mini):
    """Whatever the tokenizer makes of both together, the prompt is what the engine sends."""
    tokenizer = mini[1]
    for prompt, target in (
        ("Slots: pla", "ce: Berlin"),
        ("Slots:", " None"),
        ("a", "b"),
        ("Slots: ", "None"),
    ):
        sample = SampleTokenizer(tokenizer, 64).sample(prompt, target)
        assert sample.prompt == tokenizer(prompt)["input_ids"]
        assert tokenizer.decode(sample.target[:-1]).strip() == target.strip()
        assert sample.target[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["lora=null", "align.preservation=1.0"],
            "token preservation compares with the base under an adapter",
        ),
        (["lora=null", "load_in_4bit=true"], "in 4 bits cannot be trained itself"),
        (["align.layer=auto"], "align.held_out=100"),
        (["monitor={every: 5}"], "monitor measures pairs that are kept from training"),
        (
            ["align.held_out=5", "arms.aligned.held_out=0", "monitor={every: 5}"],
            "monitor measures pairs that are kept from training",
        ),
        (["align.held_out=5", "arms.aligned.layer=auto", "arms.aligned.held_out=0"], "align.layer: auto"),
        (
            ["lora=null", "align.held_out=5", "monitor={every: 5, generate: 9}"],
            "monitor.generate scores adapters",
        ),
        (
            ["task=lm_eval:gsm8k", "align.held_out=5", "evaluate=false", "monitor={every: 5, generate: 9}"],
            "monitor.generate scores midalign's tasks",
        ),
        (["monitor={evry: 5}"], "unknown key monitor.evry. Did you mean every"),
        (["align.alternate=sometimes"], "align.alternate"),
        (["align.multiway=true", "align.centred=running"], "centred=true instead of running"),
        (["align.multiway=true", "align.stop_gradient=english"], "stop_gradient=null"),
        (["align.multiway=true", "aligned=[de]"], "aligned needs two"),
        (["align.pairs_a_language=0"], "align.pairs_a_language.*greater than 0"),
    ],
)
def test_settings_that_contradict_each_other(changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("mini", changes)
