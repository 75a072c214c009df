"""Segments to COMET's process, scores back, each kept as soon as it is there.

COMET's encoder is XLM-R: of a language that it was not trained on, a score says nothing. Which languages it
knows is in languages.tsv. Scores are kept in millionths, as integers, in the cache and in the record alike.
"""

import hashlib
import json
import logging
import math
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from midalign import harness, record
from midalign.data import cache
from midalign.data.segments import sides
from midalign.errors import EngineError, TaskError
from midalign.evaluate.comet import environment
from midalign.families.translation import answer
from midalign.languages import language
from midalign.metrics.bootstrap import stderr

log = logging.getLogger(__name__)

WORKER = Path(__file__).with_name("worker.py")
BATCH = 32
MILLION = 1_000_000

Report = Callable[[int, int], None]
"""Takes how many of how many different segments are scored."""


class Segment(NamedTuple):
    """What a score is of."""

    source: str
    output: str
    reference: str


@dataclass(frozen=True)
class Model:
    """A COMET model by its content, and the version of COMET that runs it."""

    name: str
    digest: str
    version: str


def directions(asked: Sequence[str], warn: bool = False) -> list[str]:
    """Return the tasks among `asked` (names and groups) that COMET scores: pairs of languages that it knows.

    Other tasks of a group are skipped, and named in a warning if `warn` is set. Raises TaskError for tasks
    that are not translation, for an uncovered direction that was named itself, and if no task is left.
    """
    names = harness.expand(asked)
    others = [name for name in names if harness.metadata(name)["family"] != "translation"]
    if others:
        raise TaskError(f"--comet scores translation; {others[0]} is none. Evaluate it without --comet")
    unknown = {name: _unknown(name) for name in names}
    refused = [name for name in names if unknown[name] and (name in asked or all(unknown.values()))]
    if refused:
        why = "; ".join(f"{name} ({', '.join(unknown[name])})" for name in refused[:10])
        more = f" and {len(refused) - 10} more" if len(refused) > 10 else ""
        raise TaskError(
            f"COMET's encoder, XLM-R, was not trained on a language of {why}{more}: its scores would mean "
            f"nothing. Leave these directions out, or evaluate them without --comet"
        )
    skipped = [name for name in names if unknown[name]]
    if skipped and warn:
        log.warning(
            "No COMET score for %d of %d directions, whose languages its encoder does not know: %s",
            *(len(skipped), len(names), " ".join(skipped)),
        )
    return [name for name in names if not unknown[name]]


def _unknown(task: str) -> list[str]:
    """Return the names of a direction's languages that COMET does not know."""
    both = (language(code) for code in sides(str(harness.metadata(task)["language"])))
    return [one.name for one in both if not one.comet]


def segment(doc: Mapping[str, Any], output: str) -> Segment:
    """Return the segment to score, of a document of a translation task."""
    return Segment(doc["source"], answer(output), doc["target"])


def check(name: str) -> Model:
    """Load the model, let it score something and return what it is; a hub id is downloaded.

    Raises EngineError where there is no such model, it does not load, or COMET has no environment.
    """
    with Worker(name) as worker:
        worker.score([Segment("a", "b", "c")])
        return worker.model


def score(name: str, segments: Sequence[Segment], report: Report) -> tuple[Model, list[int]]:
    """Return the scores of the segments in millionths, in their order, and the model that gave them.

    Segments that were scored before come from the cache. Raises EngineError if the model or the environment
    is missing, or COMET's process ends.
    """
    with Worker(name) as worker, closing(Kept(worker.model)) as kept:
        found = {segment: kept.find(segment) for segment in dict.fromkeys(segments)}
        # The longest first: what does not fit into memory shows at once, and the rest goes ever faster.
        missing = sorted((s for s in found if found[s] is None), key=lambda s: (-len(s.source), s))
        done = len(found) - len(missing)
        report(done, len(found))
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            scored = dict(zip(batch, worker.score(batch), strict=True))
            kept.keep(scored)
            found.update(scored)
            done += len(batch)
            report(done, len(found))
        return worker.model, [value for s in segments if (value := found[s]) is not None]


def pooled(model: Model, millionths: Sequence[int]) -> record.Comet:
    """Return the score of a task for its record: the mean and its bootstrap standard error."""
    counts = np.stack([np.ones(len(millionths), np.int64), np.array(millionths, np.int64)], axis=1)
    return record.Comet(
        name=model.name,
        digest=model.digest,
        version=model.version,
        value=float(mean(counts.sum(0))),
        stderr=stderr(counts, mean),
        n=len(millionths),
    )


def mean(counts: np.ndarray) -> np.ndarray:
    """Return the mean score of pooled (..., [n, millionths])."""
    return np.asarray(counts[..., 1] / counts[..., 0] / MILLION)


class Worker:
    """COMET's process, which knows its model and loads it at the first batch. A context: it ends with it."""

    def __init__(self, name: str) -> None:
        # -I: neither PYTHONPATH nor the user's site may put our packages before COMET's.
        command = [str(environment.python()), "-I", "-W", "ignore", str(WORKER), name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            said = self._hear()
        except BaseException:
            self.close()
            raise
        self.model = Model(_shown(name), said["digest"], said["version"])

    def score(self, batch: Sequence[Segment]) -> list[int]:
        """Return scores in millionths. Raises EngineError if the process ends or returns no numbers."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(batch).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        scores: list[float] = self._hear()
        if len(scores) != len(batch) or not all(map(math.isfinite, scores)):
            raise EngineError(f"{self.model.name}: expected {len(batch)} numbers, got {scores}")
        return [round(MILLION * value) for value in scores]

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        said = json.loads(line)
        if isinstance(said, dict) and "error" in said:
            raise EngineError(said["error"])
        return said

    def _ended(self) -> EngineError:
        status = self._process.wait()
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        hint = ", which is what happens when memory runs out" if status == -signal.SIGKILL else ""
        return EngineError(
            f"COMET's process ended by itself ({how}{hint}). What it had scored is kept, the same command "
            f"goes on from there"
        )

    def close(self) -> None:
        """Stop the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _shown(name: str) -> str:
    """Shorten a model's folder to its last part. Records are published, and paths belong to this machine."""
    path = Path(name).expanduser().resolve()
    if path.is_file():
        return path.parents[1].name
    return path.name if path.is_dir() else name


class Kept:
    """A model's scores on disk, by segment: `comet/<digest>-<version>.sqlite` in the cache folder.

    A batch is there whole or not at all, whatever is killed.
    """

    def __init__(self, model: Model) -> None:
        self.path = cache.cache_folder() / "comet" / f"{model.digest[:16]}-{model.version}.sqlite"
        with self._named():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=60)
            self._database.execute(
                "create table if not exists scores (segment blob primary key, millionths int)"
            )

    def find(self, segment: Segment) -> int | None:
        """Return a segment's score in millionths, or None if it has none yet."""
        with self._named():
            query = "select millionths from scores where segment = ?"
            row = self._database.execute(query, (_key(segment),)).fetchone()
        return int(row[0]) if row else None

    def keep(self, scored: dict[Segment, int]) -> None:
        """Write a batch."""
        with self._named(), self._database:
            rows = [(_key(segment), millionths) for segment, millionths in scored.items()]
            self._database.executemany("insert or replace into scores values (?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise EngineError(
                f"{self.path}, where COMET's scores are kept, cannot be used ({error}). Remove it if it is "
                f"damaged, or choose another folder for the cache: export MIDALIGN_CACHE=FOLDER"
            ) from None


def _key(segment: Segment) -> bytes:
    return hashlib.sha256(json.dumps(segment).encode()).digest()
