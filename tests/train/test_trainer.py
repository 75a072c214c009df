"""The trainer on a tiny model: what one update's gradients are, however they are computed."""

import peft
import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file  # noqa: F401 - for the processes of test_distributed.py
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM, TrainingArguments

from midalign import bases
from midalign.align.rows import WIDTH
from midalign.train.alignment import AlignmentLoss
from midalign.train.distributed import process_rank, world_size
from midalign.train.recipe import load_recipe
from midalign.train.samples import SampleTokenizer
from midalign.train.schedule import plan_updates
from midalign.train.sentence_pairs import PairSamples
from midalign.train.stream import Stream
from midalign.train.task_samples import TaskSamples
from midalign.train.trainer import AlignmentTrainer, split_rows

SMALL = ["samples_per_update=8", "align.pairs_per_update=8", "align.copy_samples=4", "align.preservation=1.0"]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(bases.resolve("mini"))


def tiny_sizes(tokenizer):
    """Return the keys of a configuration that trains in moments."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    return sizes | {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}


def trainer_of(
    tokenizer,
    folder,
    changes=(),
    updates=2,
    dtype=torch.float32,
    dropout=0.0,
    width=WIDTH,
    budget=None,
    shared=False,
    optim="adamw_torch",
):
    recipe = load_recipe("mini", [*SMALL, f"updates={updates}", *changes])
    tokens = SampleTokenizer(tokenizer, 128)
    torch.manual_seed(0)
    # GPT-NeoX: where Llama casts to fp32 within, fp64 would be worth little.
    base = GPTNeoXForCausalLM(GPTNeoXConfig(**tiny_sizes(tokenizer))).to(dtype)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules="all-linear", lora_dropout=dropout))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zeros would leave the other factor without gradients
            torch.nn.init.normal_(parameter, std=0.1)
    plan = plan_updates(updates, recipe.align)
    if shared:  # by the processes that were launched
        PartialState(cpu=True)
    pairs = PairSamples(recipe, recipe.align, tokens)
    return AlignmentTrainer(
        model=model.to(dtype),
        args=TrainingArguments(
            str(folder),
            max_steps=len(plan),
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            save_steps=1,
            learning_rate=1e-2,
            per_device_train_batch_size=1,
            logging_strategy="no",
            optim=optim,
        ),
        train_dataset=Stream(
            1, plan, TaskSamples(recipe, tokens), pairs, width=width, rank=process_rank(), world=world_size()
        ),
        align=recipe.align,
        layers=[1, 3] if isinstance(recipe.align.layer, list) else [2],
        languages=len(recipe.aligned),
        packed=width is not None,
        max_batch_tokens=budget,
    )


def gradients(trainer, update=0):
    trainer.model.zero_grad()
    trainer.training_step(trainer.model, trainer.train_dataset[update])
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("align.centred=false", "align.include_bos=true", "align.symmetric=false", "align.weight=1.0"),
        ("align.layer=[1, 3]", "align.pooling=last", "align.text_samples=3"),
        ("align.alternate=micro", "align.cycles=2"),
    ],
)
def test_packed_padded_and_in_parts_are_one_gradient(tokenizer, tmp_path, changes):
    """As GradCache: the whole batch's contrastive loss, a few rows' activations at a time."""
    expected = gradients(trainer_of(tokenizer, tmp_path, changes, width=None))
    for options in ({}, {"width": 64, "budget": 100}, {"width": None, "budget": 100}):
        found = gradients(trainer_of(tokenizer, tmp_path, changes, **options))
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (found[name] - gradient).abs().max() < 1e-5 * gradient.abs().max(), name


def test_a_languages_first_sentence_has_a_gradient_like_any_other():
    """Minus a running mean that is the sentence itself it is zero, and its direction's gradient endless."""
    align = load_recipe("mini", ["align.centred=running"]).align
    alignment = AlignmentLoss(align, layers=1, languages=2, hidden=16)
    torch.manual_seed(0)
    foreign, english = torch.randn(2, 4, 1, 16).unbind()
    foreign.requires_grad_()
    alignment(foreign, english, torch.tensor([0, 0, 0, 1]), torch.eye(4, dtype=torch.bool)).backward()
    sizes = foreign.grad.flatten(1).norm(dim=1)
    assert sizes[3] < 10 * sizes[:3].max()


def test_measuring_before_the_first_mean_centres_by_the_batch():
    """So measured losses are of centred states from the beginning, and no mean moves."""
    align = load_recipe("mini", ["align.centred=running"]).align
    alignment = AlignmentLoss(align, layers=1, languages=2, hidden=16).eval()
    torch.manual_seed(0)
    foreign, english = torch.randn(2, 4, 1, 16).unbind()
    same = torch.eye(4, dtype=torch.bool)
    a, c = (
        torch.nn.functional.normalize(side[:, 0] - side[:, 0].mean(0), dim=1) for side in (foreign, english)
    )
    cosines = a @ c.T / align.temperature
    own = torch.arange(4)
    both = [torch.nn.functional.cross_entropy(side, own) for side in (cosines, cosines.T)]
    found = alignment(foreign, english, torch.tensor([0, 0, 0, 1]), same)
    assert found.item() == pytest.approx(sum(both).item() / 2, rel=1e-5)
    assert not alignment.seen.any()
    assert not alignment.means.any()


def test_parts_drop_out_again_as_they_did(tokenizer, tmp_path):
    """Recomputed activations see the same dropout: the gradient is that of the loss that was computed."""
    trainer = trainer_of(tokenizer, tmp_path, dropout=0.5, dtype=torch.float64, width=64, budget=100)
    batch = trainer.train_dataset[0]["pairs"][0]
    assert len(split_rows(batch["rows"], 100)) > 1
    weight = next(p for n, p in trainer.model.named_parameters() if "layers.0" in n and "lora_B" in n)

    def loss():
        torch.manual_seed(7)
        return trainer.align_loss(trainer.model.train(), batch)

    (gradient,) = torch.autograd.grad(loss(), weight)
    place = (3, 1)
    values = []
    for move in (1e-6, -2e-6):
        weight.data[place] += move
        values.append(loss().item())
    assert gradient[place].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


def test_reported_losses_are_true_means(tokenizer, tmp_path):
    trainer = trainer_of(tokenizer, tmp_path, width=64, budget=100)
    list(trainer.losses_of(trainer.model, trainer.train_dataset[0]))
    parts = trainer.take_losses()
    trainer = trainer_of(tokenizer, tmp_path)
    list(trainer.losses_of(trainer.model, trainer.train_dataset[0]))
    whole = trainer.take_losses()
    assert set(whole) == {"task", "copy", "alignment", "preservation"}
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-5)
    assert trainer.take_losses() == {}


def test_what_alignment_learns_is_saved_and_loaded(tokenizer, tmp_path):
    changes = ("align.learn_temperature=true", "align.centred=running")
    trainer = trainer_of(tokenizer, tmp_path, changes, updates=3)
    trainer.train()
    saved = load_file(tmp_path / "checkpoint-2" / "alignment.safetensors")
    assert set(saved) == {"log_temperature", "means", "seen"}
    assert saved["log_temperature"].item() != pytest.approx(trainer.align.temperature)
    again = trainer_of(tokenizer, tmp_path, changes, updates=3)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, tensor in trainer.alignment.state_dict().items():
        assert torch.equal(again.alignment.state_dict()[name], tensor), name
    assert not torch.equal(saved["log_temperature"], trainer.alignment.log_temperature)
