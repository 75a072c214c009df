"""A tiny random Llama with its own tokenizer, and tiny adapters on it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import PeftConfig
    from tokenizers import Tokenizer

TEXT = [
    "Utterance: wake me up at nine am on friday\nSlots: time: nine am; date: friday\n",
    "Utterance: weck mich am freitag um neun uhr\nSlots: time: neun uhr; date: freitag\n",
    "Utterance: niamshe saa tatu asubuhi\nSlots: None\n",
    "List the slots of the utterance as label: value, separated by semicolons.\n",
]


def make_base(
    folder: Path, *, hidden: int = 64, seed: int = 0, bos: bool = True, fallback: bool = False
) -> Path:
    """A Llama with a few hundred thousand parameters; its tokenizer adds BOS where `bos` says so, and with
    `fallback` writes what is not ASCII in tokens of one byte, as SentencePiece does."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = _with_byte_fallback() if fallback else Tokenizer(models.BPE())
    if not fallback:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=384,
            special_tokens=["<pad>", "<bos>", "<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(TEXT, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 1)]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    wrapped.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    )
    wrapped.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=384,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=4,
        num_attention_heads=hidden // 32,  # heads of 32: vLLM knows none smaller on a CPU
        num_key_value_heads=hidden // 64,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _with_byte_fallback() -> "Tokenizer":
    from tokenizers import Tokenizer, decoders, models, normalizers

    pieces = ["<pad>", "<bos>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [chr(code) for code in range(33, 127)]
    merges = [("▁", "t"), ("i", "m"), ("im", "e"), ("▁t", "ime")]
    pieces += [a + b for a, b in merges]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    tokenizer.add_special_tokens(pieces[:3])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def make_adapter(folder: Path, base: Path, *, seed: int = 1, trained: bool = True, rank: int = 8) -> Path:
    """A LoRA adapter with random weights; untrained ones have B = 0 and do nothing."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=16, target_modules="all-linear")
    wrapped = peft.get_peft_model(model, config)
    if trained:
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(folder)
    return folder


def make_adapter_of(folder: Path, base: str, config: "PeftConfig") -> Path:
    """An adapter whose trained weights, among them biases and whole modules, are moved by random numbers.

    One whose folder's name ends with "converted" is saved as plain LoRA.
    """
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    converted = folder.name.endswith("converted")
    torch.manual_seed(0)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    initial = folder.with_name(f"{folder.name} initial")
    if converted:
        model.peft_config["default"].init_lora_weights = True
        model.save_pretrained(initial)
        model.peft_config["default"].init_lora_weights = config.init_lora_weights
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    extra = {"path_initial_model_for_weight_conversion": str(initial)} if converted else {}
    model.save_pretrained(folder, save_embedding_layers=False, **extra)
    return folder


THOUGHT, END, BREAK, ANSWER, MORE = "is it\nSlots: no\n", "</think>", "\n\n", "None", "\nUtterance"
"""What a thinker says in a row, a token each: thoughts, their end, the answer, and the next line."""

SYSTEM_REJECTED = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}</>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>:{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}</think>\n\n{% endif %}"
)
"""A chat template of Gemma 2's kind, which can also be told not to think."""

SYSTEM_IGNORED = SYSTEM_REJECTED.replace("{{ raise_exception('no system role') }}", "").replace(
    "{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"
)


def make_thinker(folder: Path, chain: "tuple[str, ...]" = (THOUGHT, END, BREAK, ANSWER, MORE)) -> Path:
    """A model that says the chain after a colon and repeats its last token: every token follows from the one
    before it."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    make_base(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([THOUGHT, END, BREAK, ANSWER, MORE])
    tokenizer.chat_template = SYSTEM_REJECTED
    tokenizer.save_pretrained(folder)
    config = LlamaConfig.from_pretrained(folder)
    config.hidden_size, config.num_hidden_layers = 384, 1
    config.num_attention_heads = config.num_key_value_heads = 12
    config.head_dim = 32
    config.max_position_embeddings = 4096
    config.tie_word_embeddings = False
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.copy_(torch.eye(384))
        ids = tokenizer.convert_tokens_to_ids([":", *chain])
        for before, after in zip(ids, [*ids[1:], ids[-1]], strict=True):
            model.lm_head.weight[after, before] = 1.0
    model.save_pretrained(folder)
    return folder
