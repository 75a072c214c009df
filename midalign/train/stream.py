"""The stream of batches: what stands in update u is a pure function of the seed and u."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice, zip_longest
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from midalign import chat, harness
from midalign.align.head import IGNORED
from midalign.align.rows import common_prefix_length, lay_out, word_mask
from midalign.align.sentences import added_tokens, sink_tokens
from midalign.data.pairs import read_pairs
from midalign.errors import RecipeError
from midalign.train import samples as kept_samples
from midalign.train.recipe import Align, Recipe
from midalign.train.samples import Sample
from midalign.train.schedule import Step, Update

COPY = "Utterance: {sentence}\nCopy:"
"""A copy sample: the model repeats the sentence; it keeps values from being translated."""

log = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]

T = TypeVar("T")


class Pair(NamedTuple):
    """A sentence, by place of its language in the recipe, and its English."""

    language: int
    foreign: str
    english: str
    partner: str | None = None
    """Of multi-way pairs: a translation into a third language, which is aligned in place of the English."""

    @property
    def sides(self) -> tuple[str, str]:
        """The two sentences that are aligned."""
        return self.foreign, self.english if self.partner is None else self.partner


KINDS = ("task", "copy", "text")
"""What samples are for: the task, a sentence to repeat, a sentence to predict."""


class Tokens:
    """Text to ids exactly as the engine makes them, cut to the recipe's length."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    @cached_property
    def added(self) -> tuple[int, int]:
        """Numbers of tokens that the tokenizer writes before and after a sentence by itself."""
        return added_tokens(self.tokenizer)

    @cached_property
    def sink(self) -> int:
        """Number of tokens at a sentence's beginning that its mean leaves out."""
        return sink_tokens(self.tokenizer)

    def sentence(self, text: str) -> list[int]:
        """Return the ids of a plain sentence, with the tokens that the tokenizer writes before it only."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids[: min(len(ids) - self.added[1], self.max_tokens)]

    def sample(self, prompt: str, target: str) -> Sample:
        """Tokenize the prompt as lm-eval does, and the target as its continuation, then end of sequence."""
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
        room = self.max_tokens - len(after)
        if room < 1:
            raise RecipeError(
                f"an answer takes {len(after)} tokens, and max_tokens is {self.max_tokens}: "
                f"{target[:200]!r}. Set max_tokens={2 * len(after)} or more"
            )
        return Sample(before[-room:], after, cut=max(len(before) - room, 0))


def answers(
    groups: Mapping[str, Sequence[Sample]], weights: Sequence[float], pad: int, width: int | None
) -> Batch:
    """Lay out samples by kind in rows, with the labels of their answers.

    Args:
        weights: of every sample, kind after kind: what each of its labels counts.
        width: of packed rows, as in `lay_out`.

    Returns:
        `input_ids`, `position_ids`, `owner` as in Rows; `labels` (rows, width), at each position the token
        that should come next or IGNORED; `weights` (rows, width), fp32; `kinds` (rows,), places in KINDS.
    """
    samples = [sample for group in groups.values() for sample in group]
    shared = [common_prefix_length([s.prompt for s in group]) if group else 0 for group in groups.values()]
    rows = lay_out([[s.prompt + s.target for s in g] for g in groups.values()], shared, pad, width)
    labels = torch.full_like(rows.input_ids, IGNORED)
    counts = torch.zeros(labels.shape)
    kind_of = [KINDS.index(kind) for kind, group in groups.items() for _ in group]
    kinds = torch.zeros(len(labels), dtype=torch.long)
    for row, owner in enumerate(rows.owner.tolist()):
        for member in dict.fromkeys(one for one in owner if one >= 0):
            sample = samples[member]
            # Its tokens stand together: the last of them is the last of the answer.
            end = len(owner) - owner[::-1].index(member)
            where = slice(end - len(sample.target) - 1, end - 1)
            labels[row, where] = torch.tensor(sample.target)
            counts[row, where] = weights[member]
            kinds[row] = kind_of[member]
    return {**vars(rows), "labels": labels, "weights": counts, "kinds": kinds}


def epoch_positions(seed: int, start: int, count: int, total: int) -> list[int]:
    """Return positions start..start+count of endless epochs, each a seeded permutation of range(total)."""
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
    """By position among `every`."""

    @cached_property
    def tasks(self) -> dict[str, Any]:
        """lm-eval's task objects of the supervised languages, by name."""
        return harness.load(harness.training_tasks(self.recipe.task, self.recipe.supervised))

    @cached_property
    def every(self) -> list[tuple[Any, dict[str, Any]]]:
        """(task, document) of every supervised language, language after language."""
        return [(task, document) for task in self.tasks.values() for document in task.training_docs()]

    @cached_property
    def positions(self) -> Sequence[int]:
        """Those of `every` to train on: all, or under `too_long: drop` those that are not."""
        if self.recipe.too_long == "truncate":
            return range(len(self.every))
        self._render(range(len(self.every)))
        found = [position for position in range(len(self.every)) if not self.rendered[position].cut]
        dropped = len(self.every) - len(found)
        log.info("%d of %d samples are over max_tokens and left out", dropped, len(self.every))
        return found

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, number: int) -> Sample:
        position = self.positions[number]
        if position not in self.rendered:
            self.rendered[position] = self.render(*self.every[position])
        return self.rendered[position]

    def prepare(self, numbers: Iterable[int]) -> None:
        """Load or render samples before they are needed, and keep rendered ones on disk."""
        self._render([self.positions[number] for number in numbers])

    def _render(self, positions: Collection[int]) -> None:
        if self.rendered.keys() >= set(positions):
            return
        self.rendered |= kept_samples.read(self._digest)
        missing = sorted(set(positions) - self.rendered.keys())
        if missing:
            log.info("Rendering and tokenizing %d samples", len(missing))
            self.rendered |= {position: self.render(*self.every[position]) for position in missing}
            kept_samples.write(self._digest, self.rendered)

    @cached_property
    def _digest(self) -> str:
        """Over documents, tokenizer and settings, and over how a document of each task is rendered, which
        shows a prompt that was edited without a word in the task's file."""
        recipe, tokenizer = self.recipe, self.tokens.tokenizer
        first = {id(task): (task, document) for task, document in reversed(self.every)}
        return kept_samples.digest(
            [
                [[document for _, document in self.every]],
                [vars(self.render(*one)) for one in reversed(first.values())],
                [recipe.chat_template, recipe.system_instruction, self.tokens.max_tokens],
                [type(tokenizer).__name__, tokenizer.chat_template, tokenizer.get_vocab()],
            ]
        )

    def render(self, task: Any, document: dict[str, Any]) -> Sample:
        """Render a document as the model sees it. Raises RecipeError if it has no answer."""
        prompt = harness.prompt(
            task,
            document,
            apply_chat_template=self._chat_template,
            system_instruction=self.recipe.system_instruction,
        )
        # After a chat template the turn's opening separates prompt and answer already, and some prompts end
        # with the delimiter.
        parted = self.recipe.chat_template or prompt.endswith(task.config.target_delimiter)
        delimiter = "" if parted else task.config.target_delimiter
        target = task.doc_to_target(document)
        if not isinstance(target, str) or not target.strip():
            raise RecipeError(
                f"{task.config.task}: a training document has no answer (found {target!r}): "
                f"{prompt[-200:]!r}. Mend or remove it; an answer of nothing teaches to say nothing"
            )
        return self.tokens.sample(prompt, delimiter + target)

    def validation(self, language: str, count: int) -> list[Sample]:
        """Return a language's first validation documents, of its tasks in turn, such as of two treebanks.

        Return none where no task has such a split.
        """
        code = harness.task_code(self.recipe.task, language)
        every = harness.expand([harness.stock_task(self.recipe.task, language)])
        names = [name for name in every if code in harness.task_languages(name)]
        tasks = [task for task in harness.load(names).values() if task.has_validation_docs()]
        documents = zip_longest(*(task.validation_docs() for task in tasks))
        found = (pair for turn in documents for pair in zip(tasks, turn, strict=True) if pair[1] is not None)
        return [self.render(task, document) for task, document in islice(found, count)]

    @property
    def _chat_template(self) -> Callable[..., str] | None:
        if not self.recipe.chat_template:
            return None

        return partial(chat.render, self.tokens.tokenizer)

    def samples(self, seed: int, batch: int) -> list[Sample]:
        """Return the samples of one batch, the same in every arm of a recipe."""
        size = self.recipe.samples_per_update
        return [self[n] for n in epoch_positions(seed, batch * size, size, len(self))]


def aligned_pairs(recipe: Recipe, align: Align) -> tuple[list[list[Pair]], list[list[Pair]]]:
    """Return the held-out pairs, in a seeded order, and those to train on, both by language."""
    every = []
    for number, language in enumerate(recipe.aligned):
        own = [Pair(number, *pair) for pair in read_pairs(align.pairs, language)]
        order = np.random.default_rng(0).permutation(len(own)) if align.held_out else range(len(own))
        every.append([own[i] for i in order])
    held_out = [own[: align.held_out] for own in every]
    kept = {side for own in held_out for pair in own for side in pair.sides}
    rest = ([pair for pair in own if not kept.intersection(pair.sides)] for own in every)
    return held_out, [_chosen(own, align.pairs_a_language) for own in rest]


def _chosen(own: list[Pair], count: int | None) -> list[Pair]:
    """Choose `count` of a language's pairs, with the same English sentences in all languages."""
    if count is None:
        return own
    return sorted(own, key=lambda p: (hashlib.sha256(p.english.encode()).digest(), p.foreign))[:count]


def meanings(by_language: Iterable[Iterable[Pair]]) -> dict[str, str]:
    """Map each English sentence to one that stands for all sentences linked with it by shared translations.

    Sentences that translate each other have one meaning, whatever the third sentence is that links them.
    """
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        while parent.setdefault(text, text) != text:
            parent[text] = text = parent[parent[text]]
        return text

    every = [pair for own in by_language for pair in own]
    for pair in every:
        parent[root(pair.foreign)] = root(pair.english)
    return {pair.english: root(pair.english) for pair in every}


@dataclass
class PairSamples:
    """Sentence pairs of the aligned languages with English, every language as often as every other."""

    recipe: Recipe
    align: Align
    tokens: Tokens

    @cached_property
    def _parted(self) -> tuple[list[list[Pair]], list[list[Pair]]]:
        return aligned_pairs(self.recipe, self.align)

    @cached_property
    def held_out(self) -> list[list[Pair]]:
        """Pairs that are not trained on, by language."""
        return self._parted[0]

    @cached_property
    def pairs(self) -> list[list[Pair]]:
        """Pairs to train on, by language: none of which one side is held out."""
        return self._parted[1]

    @cached_property
    def meanings(self) -> dict[str, str]:
        """`meanings` of the pairs to train on."""
        return meanings(self.pairs)

    @cached_property
    def _versions(self) -> dict[str, dict[int, list[str]]]:
        """English sentence -> place of a language -> what it is there."""
        found: dict[str, dict[int, list[str]]] = {}
        for pair in (pair for own in self.pairs for pair in own):
            found.setdefault(pair.english, {}).setdefault(pair.language, []).append(pair.foreign)
        return found

    def draw(self, seed: int, batch: int) -> list[Pair]:
        """Return the pairs of one batch.

        No English sentence occurs twice: its translation would be a false negative.

        In multi-way batches no meaning occurs twice.
        """
        random = np.random.default_rng([seed, batch])
        size, drawn = self.align.pairs_per_update, dict[str, Pair]()
        for _ in range(100 * size):
            if len(drawn) == size:
                break
            language = int(random.integers(len(self.pairs)))
            pair = self.pairs[language][random.integers(len(self.pairs[language]))]
            if self.align.multiway:
                drawn.setdefault(self.meanings[pair.english], self._with_partner(pair, random))
            else:
                drawn.setdefault(pair.english, pair)
        return list(drawn.values())

    def _with_partner(self, pair: Pair, random: np.random.Generator) -> Pair:
        """Pair the sentence with its translation in another language, drawn from those with its English."""
        versions = self._versions[pair.english]
        others = [versions[language] for language in versions if language != pair.language]
        number = int(random.integers(len(others) + 1))
        if number == len(others):
            return pair
        return pair._replace(partner=others[number][random.integers(len(others[number]))])

    def copies(self, drawn: Sequence[Pair]) -> list[Sample]:
        """Return sentences to repeat."""
        sentences = _sentences(drawn, self.align.copy_samples)
        return [self.tokens.sample(COPY.format(sentence=s), f" {s}") for s in sentences]

    def texts(self, drawn: Sequence[Pair]) -> list[Sample]:
        """Return sentences to predict, token by token."""
        sentences = [self.tokens.sentence(s) for s in _sentences(drawn, self.align.text_samples)]
        return [Sample(ids[:1], ids[1:]) for ids in sentences]


def _sentences(drawn: Sequence[Pair], count: int) -> list[str]:
    """Return some sentences of the pairs, a quarter English: alignment degrades other languages first."""
    return [
        drawn[i % len(drawn)].english if i % 4 == 3 else drawn[i % len(drawn)].foreign for i in range(count)
    ]


class Stream(Dataset[dict[str, Any]]):
    """Updates in order, each a pure function of the seed and its number, in this process's share.

    An update is a dict: `answers`, where it has samples (the function of that name); `pairs`, its contrastive
    batches (`contrastive`); `tokens`, those of its samples and sentences in all processes.
    """

    def __init__(
        self,
        seed: int,
        plan: Sequence[Update],
        task: TaskSamples,
        aligned: PairSamples | None,
        *,
        width: int | None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.seed, self.plan, self.task, self.aligned = seed, plan, task, aligned
        self.width, self.rank, self.world = width, rank, world
        self.pad: int = task.tokens.tokenizer.pad_token_id

    def __len__(self) -> int:
        return len(self.plan)

    def prepare(self) -> None:
        """Render and tokenize all task samples of the plan at once."""
        last = max((step.batch for update in self.plan for step in update if step.kind == "task"), default=-1)
        count = (last + 1) * self.task.recipe.samples_per_update
        self.task.prepare(epoch_positions(self.seed, 0, count, len(self.task)))

    def __getitem__(self, update: int) -> dict[str, Any]:
        groups: dict[str, list[Sample]] = {kind: [] for kind in KINDS}
        weights: dict[str, list[float]] = {kind: [] for kind in KINDS}
        made: dict[str, Any] = {"pairs": [], "tokens": 0}
        # A copy counts as much as a task sample, whatever weight the schedule gives the task.
        of_task = sum(step.weight for step in self.plan[update] if step.kind == "task") or 1.0
        for step in self.plan[update]:
            if step.kind == "task":
                parts = {"task": (self.task.samples(self.seed, step.batch), step.weight)}
            else:
                assert self.aligned is not None
                drawn = self.aligned.draw(self.seed, step.batch)
                made["pairs"].append(self.contrastive(_part(drawn, step), step.weight, self.rank, self.world))
                made["tokens"] += made["pairs"][-1].pop("tokens")
                extra = {"copy": self.aligned.copies(drawn), "text": self.aligned.texts(drawn)}
                size = self.task.recipe.samples_per_update * step.parts
                parts = {kind: (samples, of_task * len(samples) / size) for kind, samples in extra.items()}
            for kind, (samples, factor) in parts.items():
                of_step = _part(samples, step)
                labels = sum(len(sample.target) for sample in of_step)
                own = _share(of_step, self.rank, self.world)
                groups[kind] += own
                weights[kind] += [factor / labels] * len(own) if labels else []
                made["tokens"] += labels + sum(len(sample.prompt) for sample in of_step)
        if any(groups.values()):
            flat = [weight for kind in KINDS for weight in weights[kind]]
            made["answers"] = answers(groups, flat, self.pad, self.width)
        return made

    def describe(self, update: int) -> str:
        """Describe the content of an update: its documents, and the first pair."""
        found = []
        for step in self.plan[update]:
            if step.kind == "task":
                size = self.task.recipe.samples_per_update
                where = epoch_positions(self.seed, step.batch * size, size, len(self.task))
                found.append(f"training documents {', '.join(map(str, sorted(_part(where, step))))}")
            elif self.aligned is not None:
                pair = _part(self.aligned.draw(self.seed, step.batch), step)[0]
                found.append(f"pairs from {pair.foreign!r} on")
        return "; ".join(found)

    def contrastive(
        self, drawn: Sequence[Pair], weight: float, rank: int = 0, world: int = 1
    ) -> dict[str, Any]:
        """Return rows of this process's foreign sentences, then their other sides.

        `words` (rows, width) marks the tokens that means are taken over. For the pairs of all processes,
        `same` (pairs, pairs) marks those with the same meaning, and `languages` (pairs,) are positions in the
        recipe's order.
        """
        sides = [[self.task.tokens.sentence(pair.sides[side]) for pair in drawn] for side in (0, 1)]
        own = [ids for side in sides for ids in _share(side, rank, world)]
        before, _ = self.task.tokens.added
        shared = before if all(len(ids) > before for ids in own) else 0
        rows = lay_out([own], [shared], self.pad, self.width)
        same = [[not {*one.sides}.isdisjoint(other.sides) for other in drawn] for one in drawn]
        return {
            "rows": {**vars(rows), "words": word_mask(rows, self.task.tokens.sink)},
            "same": torch.tensor(same),
            "languages": torch.tensor([pair.language for pair in drawn]),
            "weight": weight,
            "tokens": sum(len(ids) for side in sides for ids in side),
        }


def _part(items: Sequence[T], step: Step) -> Sequence[T]:
    """Return the step's part of a batch."""
    bounds = [len(items) * i // step.parts for i in (step.part, step.part + 1)]
    return items[slice(*bounds)]


def _share(items: Sequence[T], rank: int, world: int) -> Sequence[T]:
    """Return the part of a batch that this process computes."""
    return items[len(items) * rank // world : len(items) * (rank + 1) // world]


def check_roles(recipe: Recipe) -> None:
    """Fail before anything heavy is loaded: languages of the task, pairs of the aligned languages."""
    harness.training_tasks(recipe.task, recipe.supervised)
    for arm in recipe.arms:
        align = recipe.align_of(arm)
        if align is None:
            continue
        if not recipe.aligned:
            raise RecipeError(f"arm {arm} aligns, but the recipe names no aligned language")
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
