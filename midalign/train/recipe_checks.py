"""Checks of a recipe against its data, the base's tokenizer and the number of processes."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from midalign import adapter, harness
from midalign.errors import RecipeError
from midalign.train.recipe import Align, Lora, Recipe
from midalign.train.sentence_pairs import Pair, aligned_pairs, meanings

log = logging.getLogger(__name__)


def check_roles(recipe: Recipe) -> None:
    """Raise an error for unknown task languages or unsuitable pairs, before the base is loaded."""
    tasks = harness.training_tasks(recipe.task, recipe.supervised)
    for arm in recipe.arms:
        align = recipe.align_of(arm)
        if align is None:
            continue
        if not recipe.aligned:
            raise RecipeError(f"arm {arm} aligns, but the recipe names no aligned language")
        if align.context == "prompt":
            for name in tasks:
                harness.input_field(name)
        if align.switched_samples:
            if "en" not in recipe.supervised:
                raise RecipeError("align.switched_samples needs English among the supervised languages")
            for name in tasks:
                harness.word_switch(name)
        _, training = aligned_pairs(recipe, align)
        _check_numbers(recipe, arm, align, training)
        if align.multiway:
            _check_multiway(arm, align, training)


def _check_numbers(recipe: Recipe, arm: str, align: Align, training: Sequence[Sequence[Pair]]) -> None:
    """Raise RecipeError if a language has too few pairs for the arm, or for one of its updates."""
    source = f"{align.pairs}, {align.held_out} held out," if align.held_out else align.pairs
    fewest, language = min((len(group), code) for group, code in zip(training, recipe.aligned, strict=True))
    if not fewest:
        raise RecipeError(f"arm {arm}: {source} has no pairs of {language} to train on. Lower align.held_out")
    if align.pairs_a_language is not None and fewest < align.pairs_a_language:
        raise RecipeError(
            f"arm {arm} needs {align.pairs_a_language} pairs per language, and {source} has {fewest} of "
            f"{language}. Set align.pairs_a_language={fewest}, or null for all pairs"
        )
    english = {pair.english for group in training for pair in group}
    different = len(set(meanings(training).values()) if align.multiway else english)
    if different < align.pairs_per_update:
        raise RecipeError(
            f"arm {arm} draws {align.pairs_per_update} pairs with different English sides per update, and "
            f"{source} has {different}. Add pairs, or set align.pairs_per_update={different}"
        )


def _check_multiway(arm: str, align: Align, training: Sequence[Sequence[Pair]]) -> None:
    """Raise RecipeError if no English sentence has two aligned languages, and warn if few have."""
    languages = Counter(text for group in training for text in {pair.english for pair in group})
    every = [pair for group in training for pair in group]
    shared = sum(languages[pair.english] > 1 for pair in every)
    if not shared:
        raise RecipeError(
            f"arm {arm} is multi-way, and no English sentence of {align.pairs} has translations in two "
            f"aligned languages. Set align.pairs=ntrex, or a set whose languages translate the same sentences"
        )
    if 2 * shared < len(every):
        log.warning(
            "arm %s is multi-way, and of %d pairs of %s %d have their English in another aligned language. "
            "The others are paired with English alone",
            *(arm, len(every), align.pairs, shared),
        )


def check_template(recipe: Recipe, tokenizer: Any) -> None:
    """Raise RecipeError for a chat template that the tokenizer lacks."""
    if recipe.chat_template and tokenizer.chat_template is None:
        raise RecipeError(
            f"recipe {recipe.name} asks for a chat template, and the tokenizer of {recipe.base} has none. "
            f"Set chat_template=false, or use the instruction-tuned model"
        )


def check_share(align: Align | None, processes: int) -> None:
    """Raise RecipeError if the processes cannot share the pairs of a contrastive batch evenly."""
    if align is None:
        return
    pairs = align.pairs_per_update
    if align.alternate == "micro":
        pairs //= align.ratio[1] * align.cycles
    if pairs % processes:
        raise RecipeError(
            f"{processes} processes cannot share {pairs} pairs evenly. Set align.pairs_per_update to a "
            f"multiple of {align.pairs_per_update // pairs * processes}"
        )


def check_sharded(recipe: Recipe, processes: int) -> None:
    """Raise RecipeError for settings that sharded training does not support.

    Processes gather weights from each other in every forward pass, so all need the same number of passes. And
    they shard and synchronise only the weights of the model.
    """
    aligns = [align for align in map(recipe.align_of, recipe.arms) if align is not None]
    parts = max((align.ratio[0] * align.cycles for align in aligns if align.alternate == "micro"), default=1)
    problem = None
    if recipe.max_batch_tokens is not None:
        problem = (
            "max_batch_tokens gives them different numbers of forward passes. Set recompute=true instead"
        )
    elif recipe.samples_per_update < parts * processes:
        problem = (
            f"samples_per_update={recipe.samples_per_update} leaves some without a sample. "
            f"Set samples_per_update={parts * processes} or more"
        )
    elif any(align.learn_temperature for align in aligns):
        problem = "align.learn_temperature adds a weight outside the model. Remove it"
    elif any(align.preservation for align in aligns) and _trains_base(recipe.lora):
        problem = "token preservation does not work if lora.init_lora_weights or lora.bias changes the base"
    if problem is not None:
        raise RecipeError(f"{processes} processes train sharded (FSDP or DeepSpeed). {problem}")


def _trains_base(lora: Lora | None) -> bool:
    """Return whether training changes the base's weights besides the adapter's."""
    extra = (lora.model_extra if lora else None) or {}
    start, bias = extra.get("init_lora_weights", True), extra.get("bias", "none")
    return start not in adapter.PLAIN_STARTS or bias != "none"
