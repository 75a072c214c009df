"""Parallel sentences in many languages, and a model's pooled states of them at every layer, kept on disk."""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from midalign import adapter as adapters
from midalign import bases
from midalign.analyze.devices import Report, share
from midalign.data.text import read_lines
from midalign.errors import BaseModelError, DataError
from midalign.files import write_atomically
from midalign.languages import language as known

if TYPE_CHECKING:
    from torch import Tensor

PIVOT = "en"
POOLING = "mean without sink"
"""In the names of cached states and of analyses: those of before left out the configuration's BOS."""
FEWEST = 20
"""Sentences a language below which retrieval says little."""


def parallel(source: str, languages: Sequence[str] | None, count: int) -> dict[str, list[str]]:
    """Return the same sentences in every language, English first.

    They are a seeded sample of `count`, or all if there are fewer. `languages` None takes all of the source,
    otherwise they are sorted. `source` is `ntrex`, or a folder with one text file per language (`de.txt`),
    one sentence per line, parallel by line.

    Raises DataError for files of different lengths, empty lines, fewer than FEWEST sentences and English
    alone, and TaskError with the nearest name for an unknown language.
    """
    texts = _of_ntrex(languages) if source == "ntrex" else _of_folder(Path(source), languages)
    if len(texts) == 1:
        raise DataError(
            f"{source}: {PIVOT} alone has no language to meet; name others: --languages {PIVOT},de,sw"
        )
    lengths = {code: len(lines) for code, lines in texts.items()}
    total = lengths[PIVOT]
    other = next((code for code, length in lengths.items() if length != total), None)
    if other:
        raise DataError(
            f"{source}: {other} has {lengths[other]} lines and {PIVOT} has {total}. Line i of every file is "
            f"to say the same: make them equally long"
        )
    if min(total, count) < FEWEST:
        raise DataError(f"{source} gives {min(total, count)} sentences a language; take {FEWEST} or more")
    chosen = sorted(random.Random(0).sample(range(total), min(total, count)))
    return {code: [lines[i] for i in chosen] for code, lines in texts.items()}


def _of_ntrex(languages: Sequence[str] | None) -> dict[str, list[str]]:
    from midalign.data import ntrex

    every = sorted({side for direction in ntrex.directions() for side in direction.split("-")} - {PIVOT})
    for code in languages or ():
        known(code)
    wanted = every if languages is None else sorted({*languages} - {PIVOT})
    pairs = {code: ntrex.pairs(code) for code in wanted}
    english = ntrex.pairs(every[0])
    return {
        PIVOT: [pair[1] for pair in english],
        **{c: [pair[0] for pair in own] for c, own in pairs.items()},
    }


def _of_folder(folder: Path, languages: Sequence[str] | None) -> dict[str, list[str]]:
    there = sorted(file.stem for file in folder.glob("*.txt"))
    wanted = sorted({*(languages or there)} - {PIVOT})
    missing = [code for code in (PIVOT, *wanted) if code not in there]
    if missing:
        raise DataError(
            f"{folder} has no {missing[0]}.txt, found {', '.join(there) or 'no .txt file'}. Put a file for "
            f"each language there, {PIVOT}.txt among them, or take --sentences ntrex"
        )
    for code in wanted:
        known(code)
    return {code: _sentences(folder / f"{code}.txt") for code in (PIVOT, *wanted)}


def _sentences(path: Path) -> list[str]:
    lines = read_lines(path)
    empty = next((number for number, line in enumerate(lines, start=1) if not line.strip()), None)
    if empty:
        raise DataError(f"{path}, line {empty}: empty; expected one sentence a line in every language")
    return lines


def digest(sentences: Mapping[str, Sequence[str]]) -> str:
    """Return the digest of the sentences that a model is analysed on, in their order."""
    return hashlib.sha256(
        json.dumps([[code, *lines] for code, lines in sentences.items()]).encode()
    ).hexdigest()


@dataclass(frozen=True)
class Store:
    """Pooled states of a model by language, a file each, named by all that decides them."""

    folder: Path
    model: str
    """Digests of base, tokenizer and adapter, the dtype of the forward, and the pooling."""
    sentences: Mapping[str, Sequence[str]]

    def path(self, code: str) -> Path:
        """Return the file of a language."""
        text = json.dumps([self.model, list(self.sentences[code])])
        return self.folder / f"{code}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"

    def missing(self) -> list[str]:
        """Return the languages without states."""
        return [code for code in self.sentences if not self.path(code).is_file()]

    def write(self, code: str, states: "Tensor") -> None:
        """Keep (layers, sentences, hidden) fp32, whole or not at all."""
        from safetensors.torch import save

        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path(code), save({"states": states}))

    def layer(self, number: int) -> "Tensor":
        """Return (languages, sentences, hidden) fp32 of one layer, in the order of `sentences`."""
        import torch
        from safetensors import safe_open

        found = []
        for code in self.sentences:
            with safe_open(self.path(code), "pt") as file:
                found.append(file.get_slice("states")[number])
        return torch.stack(found)


def digests(source: str, adapter: Path | None) -> list[str]:
    """Return the digests of base, tokenizer and adapter, which decide what tokens become which states."""
    return [
        adapters.base_digest(source),
        adapters.tokenizer_digest(source),
        adapters.digest(adapter) if adapter else "",
    ]


def rows() -> int:
    """Return the number of sentences per batch.

    On a CPU small batches are faster, since they have less padding.
    """
    from midalign.device import device

    return 16 if device() == "cpu" else 128


def embed(
    base: str,
    adapter: Path | None,
    sentences: Mapping[str, Sequence[str]],
    folder: Path,
    devices: Sequence[str],
    report: Report,
) -> Store:
    """Compute every language's states on disk. Existing ones are not computed again.

    The adapter has passed `midalign.adapter.check`. Raises AdapterError, BaseModelError, and EngineError if
    one of several devices fails.
    """
    from midalign.device import fast_dtype

    source = bases.resolve(base)
    dtype = fast_dtype()
    store = Store(folder, " ".join([*digests(source, adapter), dtype, POOLING]), sentences)
    missing = store.missing()
    there = len(sentences) - len(missing)
    share(
        partial(_embed, source, adapter, dtype, store),
        missing,
        devices,
        lambda done, _: report(there + done, len(sentences)),
    )
    return store


def _embed(
    source: str, adapter: Path | None, dtype: str, store: Store, codes: Sequence[str]
) -> Iterator[None]:
    """Compute some languages' states by a model that is loaded for them."""
    import torch

    from midalign.align.trunk import check_states, depth
    from midalign.evaluate import live
    from midalign.evaluate.retrieval import pooled

    model, tokenizer = live.load(source, {"adapter": adapter} if adapter else {}, dtype)
    live.switch(model, "adapter" if adapter else None)
    try:
        check_states(model)
    except ValueError as error:
        raise BaseModelError(f"The base {source!r} cannot be analysed: {error}") from error
    layers = list(range(depth(model) + 1))
    for code in codes:
        with torch.inference_mode():
            store.write(code, pooled(model, tokenizer, store.sentences[code], layers, rows()))
        yield
