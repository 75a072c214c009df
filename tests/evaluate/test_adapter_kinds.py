"""Base and adapters of every kind answer in one comparison exactly as each does alone under peft."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_adapter, make_adapter_of, make_base
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from midalign import adapter as adapters
from midalign import bases
from midalign.errors import AdapterError, EngineError
from midalign.evaluate import install, live, vllm_limits
from midalign.evaluate.engine import choose_engine
from midalign.evaluate.hf import MidalignHF
from midalign.evaluate.merged_copies import merged_copies
from midalign.evaluate.settings import EvalSettings, EvaluatedModel

PROMPTS = ["Utterance: wecke mich um neun\nSlots:", "wake me up at nine", "saa tatu asubuhi; None"]
TRAINED = [40, 41, 90]

TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "down_proj"],
    "qwen2": ["q_proj", "k_proj", "v_proj", "down_proj"],
    "gpt_neox": ["query_key_value", "dense_4h_to_h"],
}
"""Names of linear layers by architecture. Qwen2's and GPT-NeoX's linear layers have biases."""


def lora(**fields: Any) -> Callable[[list[str]], peft.PeftConfig]:
    """A configuration by the names of a base's linear layers."""
    return lambda targets: peft.LoraConfig(
        task_type="CAUSAL_LM", **{"r": 4, "target_modules": targets, **fields}
    )


def other(kind: type[peft.PeftConfig], **fields: Any) -> Callable[[list[str]], peft.PeftConfig]:
    return lambda targets: kind(task_type="CAUSAL_LM", **{"target_modules": targets, **fields})


KINDS: dict[str, Callable[[list[str]], peft.PeftConfig]] = {
    "lora": lora(),
    "rslora": lora(use_rslora=True),
    "dora": lora(use_dora=True),
    "patterns": lambda targets: lora(rank_pattern={targets[0]: 8}, alpha_pattern={targets[0]: 32})(targets),
    "head saved": lora(modules_to_save=["lm_head", "embed_out"]),
    "norms saved": lora(modules_to_save=["input_layernorm"]),
    "tokens": lora(trainable_token_indices=TRAINED),
    "pissa": lora(init_lora_weights="pissa"),
    "olora": lora(init_lora_weights="olora"),
    "pissa_niter_4 converted": lora(init_lora_weights="pissa_niter_4"),
    "olora converted": lora(init_lora_weights="olora"),
    "all biases": lora(bias="all"),
    "biases of targets": lora(bias="lora_only"),
    "bias of B": lora(lora_bias=True),
    "gaussian": lora(init_lora_weights="gaussian"),
    "orthogonal": lora(init_lora_weights="orthogonal"),
    "mica": lora(init_lora_weights="mica"),
    "some layers": lora(layers_to_transform=[1]),
    "TRAINABLE_TOKENS": lambda targets: peft.TrainableTokensConfig(
        task_type="CAUSAL_LM", token_indices=TRAINED, target_modules=["embed_tokens", "embed_in"]
    ),
    "LOHA": other(peft.LoHaConfig, r=4),
    "LOKR": other(peft.LoKrConfig, r=4),
    "IA3": lambda targets: peft.IA3Config(
        task_type="CAUSAL_LM", target_modules=targets, feedforward_modules=targets[-1:]
    ),
    "OFT": other(peft.OFTConfig, r=0, oft_block_size=8),
    "BOFT": other(peft.BOFTConfig, boft_block_size=4),
    "HRA": other(peft.HRAConfig, r=4),
    "MISS": other(peft.MissConfig, r=4),
    "LN_TUNING": lambda targets: peft.LNTuningConfig(
        task_type="CAUSAL_LM", target_modules=["input_layernorm"]
    ),
    "FOURIERFT": other(peft.FourierFTConfig, n_frequency=50),
}


def make_other_base(folder: Path, architecture: str) -> Path:
    """A tiny random base with biases that are not zero. Qwen2's embeddings are tied."""
    make_base(folder)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=384,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=architecture == "qwen2",
        initializer_range=0.1,
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    )
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(TARGETS))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "llama":
        return str(bases.resolve("mini"))
    return str(make_other_base(tmp_path_factory.mktemp("bases") / request.param, request.param))


@pytest.fixture(scope="module")
def folders(base: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    targets = TARGETS[AutoConfig.from_pretrained(base).model_type]
    folder = tmp_path_factory.mktemp("kinds")
    return {kind: make_adapter_of(folder / kind, base, config(targets)) for kind, config in KINDS.items()}


def logits(model: Any, tokenizer: Any) -> list[torch.Tensor]:
    with torch.inference_mode():
        return [
            model(input_ids=torch.tensor([[*tokenizer(prompt)["input_ids"], *TRAINED]])).logits[0]
            for prompt in PROMPTS
        ]


@pytest.mark.slow
def test_base_and_adapters_answer_together_as_alone(base: str, folders: dict[str, Path]) -> None:
    def untouched() -> Any:
        return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()

    tokenizer = AutoTokenizer.from_pretrained(base)
    alone: dict[str | None, list[torch.Tensor]] = {None: logits(untouched(), tokenizer)}
    for kind, folder in folders.items():
        alone[kind] = logits(peft.PeftModel.from_pretrained(untouched(), folder).eval(), tokenizer)
    model, tokenizer = live.load_with_adapters(base, folders, "float32")
    live.prove_each_acts(model, tokenizer, folders)
    order = [*alone, *alone]
    random.Random(0).shuffle(order)
    for kind in order:
        live.switch(model, kind)
        for found, expected in zip(logits(model, tokenizer), alone[kind], strict=True):
            assert torch.equal(found, expected), kind


def test_casting_reaches_adapters_that_do_not_act_at_that_moment(tmp_path: Path) -> None:
    base = str(make_other_base(tmp_path / "base", "qwen2"))
    kinds = ("lora", "dora", "head saved", "tokens", "pissa", "all biases", "BOFT")
    folders = {kind: make_adapter_of(tmp_path / kind, base, KINDS[kind](TARGETS["qwen2"])) for kind in kinds}
    model, tokenizer = live.load_with_adapters(base, folders, "float32")
    live.cast(model, "bfloat16")
    for kind in kinds:
        live.switch(model, kind)
        together = logits(model, tokenizer)
        alone, _ = live.load_with_adapters(base, {kind: folders[kind]}, "float32")
        live.cast(alone, "bfloat16")
        live.switch(alone, kind)
        for found, expected in zip(together, logits(alone, tokenizer), strict=True):
            assert found.dtype == torch.bfloat16
            assert torch.equal(found, expected), kind


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def headed(tiny: Path) -> Path:
    """An adapter with a saved module, which has no matrices in the file."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["lm_head"])
    return make_adapter_of(tiny.with_name("headed"), str(tiny), config)


def test_names_that_peft_could_not_tell_apart(tiny: Path, tmp_path: Path) -> None:
    """torch allows no point in a module's name; `lora` is part of the names of peft's own modules."""
    names = ["lr0.5", "lr0_5", "lora", "default", "layers.0", "ä"]
    folders = {
        name: make_adapter(tmp_path / str(seed), tiny, seed=seed) for seed, name in enumerate(names, 10)
    }
    model, tokenizer = live.load_with_adapters(str(tiny), folders, "float32")
    for name, folder in folders.items():
        bare = AutoModelForCausalLM.from_pretrained(tiny)
        alone = peft.PeftModel.from_pretrained(bare, folder).eval()
        live.switch(model, name)
        assert torch.equal(live.probe_logits(model, tokenizer), live.probe_logits(alone, tokenizer))


Weights = dict[str, torch.Tensor]


def renamed(weights: Weights) -> Weights:
    key = next(key for key in weights if key.endswith("layers.2.self_attn.q_proj.lora_B.weight"))
    return {name.replace("lora_B", "lora_b") if name == key else name: w for name, w in weights.items()}


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: weight for name, weight in weights.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, r"would act in part: .* lacks .*layers\.2\..*lora_B.*has .*layers\.2\..*lora_b"),
        (without("layers.1.self_attn.q_proj.lora_A"), r"would act in part: .* lacks .*layers\.1.*lora_A"),
        (without("lm_head"), "would act in part: .* lacks .*lm_head"),
        (lambda weights: weights | {"base_model.model.extra": torch.ones(2)}, "has .*extra"),
        (
            lambda weights: {name: w * torch.nan for name, w in weights.items()},
            "not finite .*training diverged",
        ),
    ],
)
def test_adapters_that_would_act_in_part_are_rejected(
    change: Callable[[Weights], Weights], message: str, tiny: Path, headed: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(headed, tmp_path / "copy"))
    save_file(change(load_file(copy / adapters.WEIGHTS)), copy / adapters.WEIGHTS)
    with pytest.raises(AdapterError, match=message):
        live.load_with_adapters(str(tiny), {"copy": copy}, "float32")


def test_lm_eval_rejects_them_too(tiny: Path, tmp_path: Path) -> None:
    """`lm_eval --model midalign-hf --model_args pretrained=BASE,peft=ADAPTER` attaches adapters by itself."""
    copy = make_adapter(tmp_path / "copy", tiny)
    MidalignHF(pretrained=str(tiny), peft=str(copy), device="cpu", dtype="float32")
    save_file(renamed(load_file(copy / adapters.WEIGHTS)), copy / adapters.WEIGHTS)
    with pytest.raises(AdapterError, match=r"would act in part: .*layers\.2\..*lora_B"):
        MidalignHF(pretrained=str(tiny), peft=str(copy), device="cpu", dtype="float32")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    prefix = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), config)
    prefix.save_pretrained(tmp_path / "prefix")
    with pytest.raises(AdapterError, match="peft_type PREFIX_TUNING"):
        MidalignHF(pretrained=str(tiny), peft=str(tmp_path / "prefix"), device="cpu", dtype="float32")


def test_merged_copies_are_those_of_the_untouched_base(tmp_path: Path) -> None:
    """vLLM on a CPU answers with one copy at a time."""
    base = str(make_other_base(tmp_path / "base", "gpt_neox"))
    kinds = ("lora", "dora", "pissa", "olora", "all biases", "LOHA", "head saved")
    folders = {
        kind: make_adapter_of(tmp_path / kind, base, KINDS[kind](TARGETS["gpt_neox"])) for kind in kinds
    }
    model, tokenizer = live.load_with_adapters(base, folders, "float32")
    alone = {}
    for kind in kinds:
        live.switch(model, kind)
        alone[kind] = live.probe_logits(model, tokenizer)
    copies = merged_copies(base, folders, alone, tmp_path / "merged")
    for kind, copy in copies.items():
        whole = AutoModelForCausalLM.from_pretrained(copy, dtype=torch.float32).eval()
        torch.testing.assert_close(live.probe_logits(whole, tokenizer), alone[kind], rtol=1e-4, atol=1e-4)


def test_a_missing_bias_is_noticed(tmp_path: Path) -> None:
    """Biases are the base's own parameters, which peft writes over without saying which it lacks."""
    base = str(make_other_base(tmp_path / "base", "qwen2"))
    folder = make_adapter_of(tmp_path / "biases", base, KINDS["all biases"](TARGETS["qwen2"]))
    live.load_with_adapters(base, {"biases": folder}, "float32")
    save_file(
        without("layers.1.self_attn.k_proj.base_layer.bias")(load_file(folder / adapters.WEIGHTS)),
        folder / adapters.WEIGHTS,
    )
    with pytest.raises(AdapterError, match=r"lacks .*layers\.1\.self_attn\.k_proj.*bias"):
        live.load_with_adapters(base, {"biases": folder}, "float32")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "peft_type PREFIX_TUNING.*Expected LORA"),
        ({"peft_type": "VERA"}, "peft_type VERA"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4.*path_initial_model"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"init_lora_weights": "lora_ga"}, "lora_ga"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"alora_invocation_tokens": [3, 4]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 2], [1, 4]]}, "layer_replication"),
    ],
)
def test_other_kinds_are_rejected_by_name(
    settings: dict[str, Any], message: str, tiny: Path, headed: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(headed, tmp_path / "copy"))
    before = json.loads((copy / adapters.CONFIG).read_text())
    (copy / adapters.CONFIG).write_text(json.dumps(before | settings))
    with pytest.raises(AdapterError, match=message):
        adapters.check_adapter(copy, str(tiny))


def test_every_kind_of_peft_is_accepted_or_rejected_by_name() -> None:
    """`KINDS` above has all that are accepted."""
    tested = {config(["q_proj"]).peft_type.value for config in KINDS.values()}
    assert tested == set(adapters.KINDS) < {kind.value for kind in peft.PeftType}


def test_a_base_that_an_adapter_changed_is_noticed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights="pissa")
    pissa = make_adapter_of(tmp_path / "pissa", str(tiny), config)
    monkeypatch.setattr(adapters, "may_change_base", lambda folder: False)
    with pytest.raises(AdapterError, match="changed the base"):
        live.load_with_adapters(str(tiny), {"pissa": pissa}, "float32")


def test_an_adapter_that_depends_on_another_is_noticed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {str(seed): make_adapter(tmp_path / str(seed), tiny, seed=seed) for seed in (1, 2)}
    switch = live.switch
    monkeypatch.setattr(live, "switch", lambda model, name: switch(model, name and "2"))
    with pytest.raises(AdapterError, match="1 does not answer beside 1 others as it does alone"):
        live.load_with_adapters(str(tiny), folders, "float32")


def test_vllm_serves_plain_lora_alone(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU vLLM gets the adapters as they are: another kind would be another model there."""
    targets = TARGETS["llama"]
    folders = {
        kind: make_adapter_of(tmp_path / kind, str(tiny), config(targets)) for kind, config in KINDS.items()
    }
    plain = {kind for kind, folder in folders.items() if vllm_limits.beyond_plain_lora(folder) is None}
    assert plain == {
        "lora",
        "rslora",
        "gaussian",
        "orthogonal",
        "mica",
        "some layers",
        "olora converted",
        "pissa_niter_4 converted",
    }
    monkeypatch.setattr("midalign.device.device", lambda: "cuda")
    monkeypatch.setattr("midalign.device.fast_dtype", lambda: "bfloat16")
    monkeypatch.setattr(install, "has_vllm", lambda: True)
    monkeypatch.setattr(vllm_limits, "lora_embeddings", lambda config: ("LlamaForCausalLM", ["lm_head"]))
    base = EvaluatedModel("tiny", None, None, None)
    vllm, auto = (
        EvalSettings(base=str(tiny), tasks=(), output=tmp_path, engine=engine) for engine in ("vllm", "auto")
    )
    for kind, problem in {
        "pissa": "init_lora_weights pissa",
        "dora": "use_dora",
        "patterns": "rank_pattern",
        "all biases": "bias all",
        "head saved": "modules_to_save",
        "IA3": "peft_type IA3",
    }.items():
        model = EvaluatedModel(kind, folders[kind], "0", None)
        with pytest.raises(AdapterError, match=rf"{problem}.*--engine hf"):
            choose_engine(vllm, str(tiny), [base, model])
        assert choose_engine(auto, str(tiny), [base, model]) == "hf"
    for settings in (vllm, auto):
        assert choose_engine(settings, str(tiny), [base]) == "vllm"
        lora_alone = EvaluatedModel("lora", folders["lora"], "0", None)
        assert choose_engine(settings, str(tiny), [base, lora_alone]) == "vllm"
    monkeypatch.setattr("midalign.device.fast_dtype", lambda: "float32")  # a T4
    with pytest.raises(EngineError, match=r"not in float32.*--engine hf"):
        choose_engine(vllm, str(tiny), [base, lora_alone])
    assert choose_engine(auto, str(tiny), [base, lora_alone]) == "hf"
    assert choose_engine(auto, str(tiny), [base]) == "vllm"
