"""Checks of a recipe against the data that it names, before anything heavy is loaded."""

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
    """Fail before anything heavy is loaded: languages of the task, pairs of the aligned languages."""
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
        _, training = aligned_pairs(recipe, align)
        _check_numbers(recipe, arm, align, training)
        if align.multiway:
            _check_multiway(arm, align, training)


def _check_numbers(recipe: Recipe, arm: str, align: Align, training: Sequence[Sequence[Pair]]) -> None:
    """Raise RecipeError where there are fewer pairs than the arm is to have, or than one of its updates."""
    source = f"{align.pairs}, {align.held_out} held out," if align.held_out else align.pairs
    fewest, language = min((len(own), code) for own, code in zip(training, recipe.aligned, strict=True))
    if not fewest:
        raise RecipeError(f"arm {arm}: {source} has no pairs of {language} to train on. Hold fewer out")
    if align.pairs_a_language is not None and fewest < align.pairs_a_language:
        raise RecipeError(
            f"arm {arm} is to have {align.pairs_a_language} pairs a language, and {source} has {fewest} of "
            f"{language}. Set align.pairs_a_language={fewest}, or null for all that each has"
        )
    english = {pair.english for own in training for pair in own}
    different = len(set(meanings(training).values()) if align.multiway else english)
    if different < align.pairs_per_update:
        raise RecipeError(
            f"arm {arm} draws {align.pairs_per_update} pairs with different English sides an update, and "
            f"{source} has {different}. Add pairs, or set align.pairs_per_update={different}"
        )


def _check_multiway(arm: str, align: Align, training: Sequence[Sequence[Pair]]) -> None:
    """Raise RecipeError where no English sentence is there in two languages; warn where few are."""
    languages = Counter(text for own in training for text in {pair.english for pair in own})
    every = [pair for own in training for pair in own]
    shared = sum(languages[pair.english] > 1 for pair in every)
    if not shared:
        raise RecipeError(
            f"arm {arm} is multi-way, and no English sentence of {align.pairs} is there in two of the "
            f"aligned languages. Set align.pairs=ntrex, or a set whose languages translate the same sentences"
        )
    if 2 * shared < len(every):
        log.warning(
            "arm %s is multi-way, and of %d pairs of %s %d have their English in another aligned language; "
            "the others are paired with English alone",
            *(arm, len(every), align.pairs, shared),
        )


def check_template(recipe: Recipe, tokenizer: Any) -> None:
    """Raise RecipeError for a chat template that the tokenizer lacks."""
    if recipe.chat_template and tokenizer.chat_template is None:
        raise RecipeError(
            f"recipe {recipe.name} asks for a chat template and the tokenizer of {recipe.base} has none: "
            f"set chat_template=false, or take the instruction-tuned model"
        )


def check_share(align: Align | None, processes: int) -> None:
    """Raise RecipeError where the pairs of a contrastive batch do not share out evenly."""
    if align is None:
        return
    pairs = align.pairs_per_update
    if align.alternate == "micro":
        pairs //= align.ratio[1] * align.cycles
    if pairs % processes:
        raise RecipeError(
            f"{processes} processes cannot share {pairs} pairs evenly: set align.pairs_per_update to a "
            f"multiple of {align.pairs_per_update // pairs * processes}"
        )


def check_sharded(recipe: Recipe, processes: int) -> None:
    """Raise RecipeError for what processes that gather from each other cannot do: they would wait for ever
    for one that makes fewer forwards, and know of the model's weights alone."""
    aligns = [align for align in map(recipe.align_of, recipe.arms) if align is not None]
    parts = max((one.ratio[0] * one.cycles for one in aligns if one.alternate == "micro"), default=1)
    problem = None
    if recipe.max_batch_tokens is not None:
        problem = "max_batch_tokens gives them different numbers of forwards: take recompute=true instead"
    elif recipe.samples_per_update < parts * processes:
        problem = (
            f"samples_per_update={recipe.samples_per_update} leaves some without: {parts * processes} do"
        )
    elif any(one.learn_temperature for one in aligns):
        problem = "align.learn_temperature is no weight of the model: leave it out"
    elif any(align.preservation for align in aligns) and _trains_base(recipe.lora):
        problem = "token preservation needs a base that lora.init_lora_weights and lora.bias leave as it is"
    if problem is not None:
        raise RecipeError(f"{processes} processes train sharded (FSDP or DeepSpeed). {problem}")


def _trains_base(lora: Lora | None) -> bool:
    """Return whether the adapter changes the base's own weights while it trains."""
    extra = (lora.model_extra if lora else None) or {}
    start, bias = extra.get("init_lora_weights", True), extra.get("bias", "none")
    return start not in adapter.PLAIN_STARTS or bias != "none"
