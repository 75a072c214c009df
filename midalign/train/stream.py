"""The stream of batches: what stands in update u is a pure function of the seed and u."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from midalign import harness
from midalign.data import pairs
from midalign.errors import RecipeError, TaskError, nearest
from midalign.train.recipe import Align, Recipe

IGNORED = -100
"""The label of positions without loss, as torch's cross entropy has it."""

MULTIPLE = 16
"""Widths of batches are multiples of this: on a CPU each new shape is a compiled kernel kept in memory."""

COPY = "Utterance: {sentence}\nCopy:"
"""A copy sample: the model repeats the sentence; it keeps values from being translated."""

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Sample:
    """Token ids of a prompt and of what the model should answer, its end-of-sequence token included."""

    prompt: list[int]
    target: list[int]


class Tokens:
    """Text to ids exactly as the engine makes them, cut to the recipe's length."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    def sentence(self, text: str) -> list[int]:
        """Ids of a plain sentence, with the special tokens that the tokenizer adds by itself."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids[: self.max_tokens]

    def sample(self, prompt: str, target: str) -> Sample:
        """Prompt ids as lm-eval tokenizes them; the target continues them, then end of sequence."""
        tokenizer = self.tokenizer
        # A chat template has written BOS into the text already.
        special = not (tokenizer.bos_token and prompt.startswith(tokenizer.bos_token))
        before: list[int] = tokenizer(prompt, add_special_tokens=special)["input_ids"]
        whole: list[int] = tokenizer(prompt + target, add_special_tokens=special)["input_ids"]
        if tokenizer.eos_token_id in whole[-1:]:
            whole = whole[:-1]
        if whole[: len(before)] != before:  # the boundary merges: keep the prompt as the engine sends it
            whole = before + tokenizer(target, add_special_tokens=False)["input_ids"]
        after = [*whole[len(before) :], tokenizer.eos_token_id]
        return Sample(before[-max(self.max_tokens - len(after), 1) :], after)


def pad_right(sentences: Sequence[list[int]], pad: int) -> Batch:
    """`input_ids` and `attention_mask`, (batch, longest rounded up to MULTIPLE)."""
    width = _rounded(max(map(len, sentences)))
    ids = [s + [pad] * (width - len(s)) for s in sentences]
    mask = [[1] * len(s) + [0] * (width - len(s)) for s in sentences]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def pad_left(samples: Sequence[Sample], pad: int) -> Batch:
    """A batch whose answers stand at its right edge, so that only the last columns need logits.

    Returns:
        `input_ids`, `attention_mask`, `position_ids` (batch, longest rounded up to MULTIPLE), and `labels`
        (batch, longest answer) for the last columns, IGNORED where a shorter answer has not begun.
    """
    width = _rounded(max(len(s.prompt) + len(s.target) for s in samples))
    answer = max(len(s.target) for s in samples)
    ids, mask, labels = [], [], []
    for s in samples:
        gap = width - len(s.prompt) - len(s.target)
        ids.append([pad] * gap + s.prompt + s.target)
        mask.append([0] * gap + [1] * (width - gap))
        labels.append([IGNORED] * (answer - len(s.target)) + s.target)
    attention = torch.tensor(mask)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": attention,
        "position_ids": (attention.cumsum(1) - 1).clamp(min=0),
        "labels": torch.tensor(labels),
    }


def _rounded(width: int) -> int:
    return -(-width // MULTIPLE) * MULTIPLE


def epoch_positions(seed: int, start: int, count: int, total: int) -> list[int]:
    """Positions start..start+count of endless epochs, each a seeded permutation of range(total)."""
    found: list[int] = []
    while len(found) < count:
        epoch, offset = divmod(start + len(found), total)
        order = np.random.default_rng([seed, epoch]).permutation(total)
        found += order[offset : offset + count - len(found)].tolist()
    return found


@dataclass
class TaskSamples:
    """The task's training documents in the supervised languages, rendered by lm-eval's own task objects."""

    recipe: Recipe
    tokens: Tokens
    rendered: dict[int, Sample] = field(default_factory=dict)

    @cached_property
    def documents(self) -> list[tuple[Any, dict[str, Any]]]:
        """(task, document) of every supervised language, language after language."""
        tasks = harness.load(training_tasks(self.recipe.task, self.recipe.supervised))
        return [(task, document) for task in tasks.values() for document in task.training_docs()]

    def __getitem__(self, position: int) -> Sample:
        if position not in self.rendered:
            task, document = self.documents[position]
            prompt = harness.prompt(
                task,
                document,
                apply_chat_template=self._chat_template,
                system_instruction=self.recipe.system_instruction,
            )
            # After a chat template the turn's opening separates prompt and answer already.
            delimiter = "" if self.recipe.chat_template else task.config.target_delimiter
            self.rendered[position] = self.tokens.sample(prompt, delimiter + task.doc_to_target(document))
        return self.rendered[position]

    @property
    def _chat_template(self) -> Callable[..., str] | None:
        if not self.recipe.chat_template:
            return None

        def render(chat: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            text: str = self.tokens.tokenizer.apply_chat_template(
                chat,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
            return text

        return render

    def batch(self, seed: int, update: int) -> Batch:
        """The samples of one update, the same in every arm of a recipe."""
        size = self.recipe.samples_per_update
        positions = epoch_positions(seed, update * size, size, len(self.documents))
        return pad_left([self[p] for p in positions], self.tokens.tokenizer.pad_token_id)


@dataclass
class PairSamples:
    """Sentence pairs of the aligned languages with English, every language as often as every other."""

    recipe: Recipe
    align: Align
    tokens: Tokens

    @cached_property
    def pairs(self) -> list[list[tuple[str, str]]]:
        """(foreign, English) by language, in the recipe's order."""
        return [pairs.pairs(self.align.pairs, language) for language in self.recipe.aligned]

    def draw(self, seed: int, update: int) -> list[tuple[str, str]]:
        """The pairs of one update; no English sentence twice: its translation would be a false negative."""
        random = np.random.default_rng([seed, update])
        size, drawn = self.align.pairs_per_update, dict[str, tuple[str, str]]()
        for _ in range(100 * size):
            if len(drawn) == size:
                break
            language = self.pairs[random.integers(len(self.pairs))]
            pair = language[random.integers(len(language))]
            drawn.setdefault(pair[1], pair)
        return list(drawn.values())

    def batch(self, seed: int, update: int) -> dict[str, Batch]:
        """`pairs`: foreign sentences then English ones in one padded batch; `copies`: sentences to repeat."""
        pad = self.tokens.tokenizer.pad_token_id
        drawn = self.draw(seed, update)
        sides = [self.tokens.sentence(p[0]) for p in drawn] + [self.tokens.sentence(p[1]) for p in drawn]
        batch = {"pairs": pad_right(sides, pad)}
        if self.align.copy_samples:
            # A quarter English: the languages that alignment wears down come first.
            copied = [drawn[i % len(drawn)][int(i % 4 == 3)] for i in range(self.align.copy_samples)]
            samples = [self.tokens.sample(COPY.format(sentence=s), f" {s}") for s in copied]
            batch["copies"] = pad_left(samples, pad)
        return batch


class Stream(Dataset[dict[str, Batch]]):
    """Micro-batches in order: the task's, then, in an arm that aligns, the pairs' of the same update."""

    def __init__(self, seed: int, updates: int, task: TaskSamples, aligned: PairSamples | None) -> None:
        self.seed, self.updates, self.task, self.aligned = seed, updates, task, aligned
        self.phases = 1 if aligned is None else 2

    def __len__(self) -> int:
        return self.updates * self.phases

    def __getitem__(self, micro_step: int) -> dict[str, Batch]:
        update, phase = divmod(micro_step, self.phases)
        if phase == 1 and self.aligned is not None:
            return self.aligned.batch(self.seed, update)
        return {"task": self.task.batch(self.seed, update)}


def task_names(group: str, languages: Sequence[str]) -> list[str]:
    """The group's tasks in some languages, in their order; for translation the directions among them and
    English. Raises TaskError with the nearest language for one that the group lacks."""
    languages_of = {name: harness.task_languages(name) for name in harness.expand([group])}
    known = {code for codes in languages_of.values() for code in codes}
    names: dict[str, None] = {}
    for language in languages:
        if language not in known:
            raise TaskError(f"{group} has no language {language!r}.{nearest(language, known)}")
        own = (name for name, codes in languages_of.items() if language in codes)
        names.update(dict.fromkeys(name for name in own if set(languages_of[name]) <= set(languages)))
    return list(names)


def training_tasks(group: str, languages: Sequence[str]) -> list[str]:
    """Those of `task_names` that have a training split; raises RecipeError for a language without any."""
    names = task_names(group, languages)
    trainable = [name for name in harness.expand([group]) if harness.has_training_split(name)]
    known = dict.fromkeys(code for name in trainable for code in harness.task_languages(name))
    for language in languages:
        if language not in known:
            raise RecipeError(f"{group} has no training data in {language!r}, only in {', '.join(known)}")
    return [name for name in names if name in trainable]


def check_roles(recipe: Recipe) -> None:
    """Fail before anything heavy is loaded: languages of the task, pairs of the aligned languages."""
    training_tasks(recipe.task, recipe.supervised)
    for arm in recipe.arms:
        align = recipe.align_of(arm)
        if align is None:
            continue
        if not recipe.aligned:
            raise RecipeError(f"arm {arm} aligns, but the recipe names no aligned language")
        english = {pair[1] for language in recipe.aligned for pair in pairs.pairs(align.pairs, language)}
        if len(english) < align.pairs_per_update:
            raise RecipeError(
                f"arm {arm} draws {align.pairs_per_update} pairs with different English sides an update, and "
                f"{align.pairs} has {len(english)}. Add pairs, or set align.pairs_per_update={len(english)}"
            )
