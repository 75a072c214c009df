"""Training and validation documents of a recipe's task, rendered and tokenized."""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice, zip_longest
from typing import Any

import numpy as np

from midalign import chat, harness
from midalign.align.rows import common_prefix_length
from midalign.data.pairs import is_labelled
from midalign.errors import RecipeError
from midalign.train import samples as kept_samples
from midalign.train.recipe import Recipe
from midalign.train.samples import SampleTokenizer, TokenizedSample

log = logging.getLogger(__name__)

PROBES = ("Tomorrow", "7 apples", "морген")
"""Texts without a common beginning, which show where a prompt's input begins."""


def epoch_positions(seed: int, start: int, count: int, total: int) -> list[int]:
    """Return positions start..start+count of endless epochs, each a seeded permutation of range(total)."""
    positions: list[int] = []
    while len(positions) < count:
        epoch, offset = divmod(start + len(positions), total)
        order = np.random.default_rng([seed, epoch]).permutation(total)
        positions += order[offset : offset + count - len(positions)].tolist()
    return positions


@dataclass
class TaskSamples:
    """The task's training documents in the supervised languages, rendered by lm-eval's task objects."""

    recipe: Recipe
    tokens: SampleTokenizer
    rendered: dict[int, TokenizedSample] = field(default_factory=dict)
    """Samples by position in `every`."""

    @cached_property
    def tasks(self) -> dict[str, Any]:
        """lm-eval's task objects of the supervised languages, by name."""
        return harness.load_tasks(harness.training_tasks(self.recipe.task, self.recipe.supervised))

    @cached_property
    def every(self) -> list[tuple[Any, dict[str, Any]]]:
        """(task, document) of every supervised language, language after language."""
        share = self.recipe.labelled_share
        documents = [
            (task, document)
            for task in self.tasks.values()
            for document in task.training_docs()
            if share is None or is_labelled(document["id"], share)
        ]
        if not documents:
            raise RecipeError(f"labelled_share={share} leaves no training item. Raise it")
        return documents

    @cached_property
    def positions(self) -> Sequence[int]:
        """Positions in `every` to train on: all, or with `too_long: drop` those that fit into max_tokens."""
        if self.recipe.too_long == "truncate":
            return range(len(self.every))
        self._render(range(len(self.every)))
        kept = [position for position in range(len(self.every)) if not self.rendered[position].cut]
        dropped = len(self.every) - len(kept)
        log.info("%d of %d samples are longer than max_tokens and dropped", dropped, len(self.every))
        return kept

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, number: int) -> TokenizedSample:
        position = self.positions[number]
        if position not in self.rendered:
            self.rendered[position] = self.render(*self.every[position])
        return self.rendered[position]

    def prepare(self, numbers: Iterable[int]) -> None:
        """Load samples from the disk cache, or render them and add them to the cache."""
        self._render([self.positions[number] for number in numbers])

    def _render(self, positions: Collection[int]) -> None:
        if self.rendered.keys() >= set(positions):
            return
        self.rendered |= kept_samples.read_samples(self._digest)
        missing = sorted(set(positions) - self.rendered.keys())
        if missing:
            log.info("Rendering and tokenizing %d samples", len(missing))
            self.rendered |= {position: self.render(*self.every[position]) for position in missing}
            kept_samples.write_samples(self._digest, self.rendered)

    @cached_property
    def _digest(self) -> str:
        """Digest of documents, tokenizer, settings and one rendered document per task.

        The latter shows a prompt that has changed outside the task's file.
        """
        recipe, tokenizer = self.recipe, self.tokens.tokenizer
        first = {id(task): (task, document) for task, document in reversed(self.every)}
        return kept_samples.samples_digest(
            [
                [[document for _, document in self.every]],
                [vars(self.render(*entry)) for entry in reversed(first.values())],
                [recipe.chat_template, recipe.system_instruction, self.tokens.max_tokens],
                [type(tokenizer).__name__, tokenizer.chat_template, tokenizer.get_vocab()],
            ]
        )

    def render(self, task: Any, document: dict[str, Any]) -> TokenizedSample:
        """Render a document as the model sees it. Raises RecipeError if it has no answer."""
        prompt = self._prompt(task, document)
        # After a chat template the turn's opening separates prompt and answer already, and some prompts end
        # with the delimiter.
        parted = self.recipe.chat_template or prompt.endswith(task.config.target_delimiter)
        delimiter = "" if parted else task.config.target_delimiter
        target = task.doc_to_target(document)
        if not isinstance(target, str) or not target.strip():
            raise RecipeError(
                f"{task.config.task}: a training document has no answer (found {target!r}): "
                f"{prompt[-200:]!r}. Fix or remove it: empty targets teach the model to output nothing"
            )
        return self.tokens.sample(prompt, delimiter + target)

    def prompt_ids(self, sentence: str) -> list[int]:
        """Return the token ids of the task's prompt with this sentence as its input.

        A sentence that is too long for max_tokens loses its beginning. The prompt stays complete.
        """
        ids = self._ids_around(sentence)
        excess = max(len(ids) - self.tokens.max_tokens, 0)
        return ids[: self.prompt_start] + ids[self.prompt_start + excess :]

    @cached_property
    def prompt_start(self) -> int:
        """Number of tokens before the sentence in `prompt_ids`.

        Raises RecipeError if the prompt alone does not fit into max_tokens.
        """
        probes = [self._ids_around(text) for text in PROBES]
        start, shortest = common_prefix_length(probes), min(map(len, probes))
        if shortest > self.tokens.max_tokens:
            raise RecipeError(
                f"The task's prompt takes {shortest} tokens, and max_tokens is {self.tokens.max_tokens}. "
                f"Set max_tokens={2 * shortest} or more"
            )
        return start

    def _ids_around(self, sentence: str) -> list[int]:
        task, document = self.every[0]
        return self.tokens.prompt(self._prompt(task, {**document, self._input_field: sentence}))

    @cached_property
    def _input_field(self) -> str:
        return harness.input_field(self.every[0][0].config.task)

    def _prompt(self, task: Any, document: dict[str, Any]) -> str:
        """Render the prompt of a document as an engine gets it."""
        return harness.prompt(
            task,
            document,
            apply_chat_template=self._chat_template,
            system_instruction=self.recipe.system_instruction,
        )

    def validation(self, language: str, count: int) -> list[TokenizedSample]:
        """Return a language's first validation documents, taken from its tasks (such as treebanks) in turn.

        The list is empty if no task has a validation split.
        """
        code = harness.task_code(self.recipe.task, language)
        every = harness.expand([harness.stock_task(self.recipe.task, language)])
        names = [name for name in every if code in harness.task_languages(name)]
        tasks = [task for task in harness.load_tasks(names).values() if task.has_validation_docs()]
        documents = zip_longest(*(task.validation_docs() for task in tasks))
        rounds = (zip(tasks, turn, strict=True) for turn in documents)
        present = ((task, document) for turn in rounds for task, document in turn if document is not None)
        return [self.render(task, document) for task, document in islice(present, count)]

    @property
    def _chat_template(self) -> Callable[..., str] | None:
        if not self.recipe.chat_template:
            return None

        return partial(chat.render, self.tokens.tokenizer)

    def samples(self, seed: int, batch: int) -> list[TokenizedSample]:
        """Return the samples of one batch, the same in every arm of a recipe."""
        size = self.recipe.samples_per_update
        return [self[n] for n in epoch_positions(seed, batch * size, size, len(self))]
