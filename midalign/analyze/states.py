"""Parallel sentences in many languages, and a disk cache of a model's pooled states at every layer."""

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
from midalign.analyze.devices import DoneCallback, share_among_devices
from midalign.data.text import read_lines
from midalign.errors import BaseModelError, DataError
from midalign.files import write_atomically
from midalign.languages import language as known

if TYPE_CHECKING:
    from torch import Tensor

PIVOT = "en"
POOLING = "mean without sink"
"""Pooling, in the names of cached states and analyses. An earlier one excluded the configuration's BOS."""
FEWEST = 20
"""Fewest sentences per language. With fewer, retrieval says little."""


def parallel_sentences(source: str, languages: Sequence[str] | None, count: int) -> dict[str, list[str]]:
    """Return the same sentences in every language, English first.

    Args:
        source: `ntrex`, or a folder with one text file per language (`de.txt`), one sentence per line,
            parallel by line.
        languages: codes, None for all of the source. The result is sorted.
        count: size of the seeded sample. All sentences if there are fewer.

    Raises DataError for files of different lengths, empty lines, fewer than FEWEST sentences and English
    alone, and TaskError with the nearest name for an unknown language.
    """
    texts = _of_ntrex(languages) if source == "ntrex" else _of_folder(Path(source), languages)
    if len(texts) == 1:
        raise DataError(f"{source} has no language besides {PIVOT}. Name others: --languages {PIVOT},de,sw")
    lengths = {code: len(lines) for code, lines in texts.items()}
    total = lengths[PIVOT]
    other = next((code for code, length in lengths.items() if length != total), None)
    if other:
        raise DataError(
            f"{source}: {other} has {lengths[other]} lines and {PIVOT} has {total}. Line i of every "
            f"file must be the same sentence: make them equally long"
        )
    if min(total, count) < FEWEST:
        raise DataError(
            f"{source} gives {min(total, count)} sentences per language, expected at least {FEWEST}"
        )
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
        **{code: [foreign for foreign, _ in pairs[code]] for code in wanted},
    }


def _of_folder(folder: Path, languages: Sequence[str] | None) -> dict[str, list[str]]:
    available = sorted(file.stem for file in folder.glob("*.txt"))
    wanted = sorted({*(languages or available)} - {PIVOT})
    missing = [code for code in (PIVOT, *wanted) if code not in available]
    if missing:
        raise DataError(
            f"{folder} has no {missing[0]}.txt, found {', '.join(available) or 'no .txt file'}. Add a file "
            f"per language, including {PIVOT}.txt, or use --sentences ntrex"
        )
    for code in wanted:
        known(code)
    return {code: _sentences(folder / f"{code}.txt") for code in (PIVOT, *wanted)}


def _sentences(path: Path) -> list[str]:
    lines = read_lines(path)
    empty = next((number for number, line in enumerate(lines, start=1) if not line.strip()), None)
    if empty:
        raise DataError(f"{path}, line {empty}: empty line, expected one sentence per line in every language")
    return lines


def sentences_digest(sentences: Mapping[str, Sequence[str]]) -> str:
    """Return the digest of the sentences that a model is analysed on, in their order."""
    return hashlib.sha256(
        json.dumps([[code, *lines] for code, lines in sentences.items()]).encode()
    ).hexdigest()


@dataclass(frozen=True)
class StateStore:
    """Pooled states of a model, one file per language, named by everything that determines the states."""

    folder: Path
    model: str
    """Digests of base, tokenizer and adapter, the dtype of the forward pass, and the pooling."""
    sentences: Mapping[str, Sequence[str]]

    def path(self, code: str) -> Path:
        """Return the file of a language."""
        text = json.dumps([self.model, list(self.sentences[code])])
        return self.folder / f"{code}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"

    def missing(self) -> list[str]:
        """Return the languages without states."""
        return [code for code in self.sentences if not self.path(code).is_file()]

    def write(self, code: str, states: "Tensor") -> None:
        """Write the states of a language atomically: (layers, sentences, hidden) fp32."""
        from safetensors.torch import save

        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path(code), save({"states": states}))

    def layer(self, number: int) -> "Tensor":
        """Return (languages, sentences, hidden) fp32 of one layer, in the order of `sentences`."""
        import torch
        from safetensors import safe_open

        layers = []
        for code in self.sentences:
            with safe_open(self.path(code), "pt") as file:
                layers.append(file.get_slice("states")[number])
        return torch.stack(layers)


def model_digests(source: str, adapter: Path | None) -> list[str]:
    """Return the digests of base, tokenizer and adapter, which determine tokens and states."""
    return [
        adapters.base_digest(source),
        adapters.tokenizer_digest(source),
        adapters.adapter_digest(adapter) if adapter else "",
    ]


def batch_rows() -> int:
    """Return the number of sentences per batch.

    On a CPU small batches are faster, since they have less padding.
    """
    from midalign.device import device

    return 16 if device() == "cpu" else 128


def embed_languages(
    base: str,
    adapter: Path | None,
    sentences: Mapping[str, Sequence[str]],
    folder: Path,
    devices: Sequence[str],
    report: DoneCallback,
) -> StateStore:
    """Write every language's states to disk, except existing ones, and return the store.

    The adapter must have passed `midalign.adapter.check_adapter`. Raises AdapterError, BaseModelError, and
    EngineError if one of several devices fails.
    """
    from midalign.device import fast_dtype

    source = bases.resolve(base)
    dtype = fast_dtype()
    store = StateStore(folder, " ".join([*model_digests(source, adapter), dtype, POOLING]), sentences)
    missing = store.missing()
    finished = len(sentences) - len(missing)
    share_among_devices(
        partial(_embed, source, adapter, dtype, store),
        missing,
        devices,
        lambda done, _: report(finished + done, len(sentences)),
    )
    return store


def _embed(
    source: str, adapter: Path | None, dtype: str, store: StateStore, codes: Sequence[str]
) -> Iterator[None]:
    """Load the model and write the states of the given languages."""
    import torch

    from midalign.align.trunk import check_states, depth
    from midalign.evaluate import live
    from midalign.evaluate.retrieval import pooled_states

    model, tokenizer = live.load_with_adapters(source, {"adapter": adapter} if adapter else {}, dtype)
    live.switch(model, "adapter" if adapter else None)
    try:
        check_states(model)
    except ValueError as error:
        raise BaseModelError(f"The base {source!r} cannot be analysed: {error}") from error
    layers = list(range(depth(model) + 1))
    for code in codes:
        with torch.inference_mode():
            store.write(code, pooled_states(model, tokenizer, store.sentences[code], layers, batch_rows()))
        yield
