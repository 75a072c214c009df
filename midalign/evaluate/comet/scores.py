"""Scores of COMET's process, cached on disk.

COMET's encoder is XLM-R, so scores of languages that it was not trained on are meaningless. languages.tsv has
the languages that it knows. Cache and records keep scores as integers, in millionths.
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

SegmentReporter = Callable[[int, int], None]
"""Progress callback `(done, total)`, in different segments."""


class CometSegment(NamedTuple):
    """One segment to score."""

    source: str
    output: str
    reference: str


@dataclass(frozen=True)
class CometModel:
    """A COMET model with the digest of its files, and the version of COMET that runs it."""

    name: str
    digest: str
    version: str


def comet_directions(asked: Sequence[str], warn: bool = False) -> list[str]:
    """Return the tasks among `asked` (names and groups) that COMET scores: those in languages that it knows.

    Other directions of a group are skipped, with a warning if `warn` is set. Raises TaskError for tasks other
    than translation, for a direction that was named itself and is not scored, and if no task is left.
    """
    names = harness.expand(asked)
    others = [name for name in names if harness.metadata(name)["family"] != "translation"]
    if others:
        raise TaskError(f"--comet scores translation, which {others[0]} is not. Evaluate it without --comet")
    unknown = {name: _unknown(name) for name in names}
    rejected = [name for name in names if unknown[name] and (name in asked or all(unknown.values()))]
    if rejected:
        shown = "; ".join(f"{name} ({', '.join(unknown[name])})" for name in rejected[:10])
        more = f" and {len(rejected) - 10} more" if len(rejected) > 10 else ""
        raise TaskError(
            f"COMET's encoder, XLM-R, was not trained on a language of {shown}{more}: its scores would be "
            f"meaningless. Remove these directions, or evaluate them without --comet"
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
    codes = sides(str(harness.metadata(task)["language"]))
    return [known.name for known in map(language, codes) if not known.comet]


def comet_segment(doc: Mapping[str, Any], output: str) -> CometSegment:
    """Return the segment of a document of a translation task and its output."""
    return CometSegment(doc["source"], answer(output), doc["target"])


def check_comet_model(name: str) -> CometModel:
    """Load the model, score one segment as a test, and return the model. A hub id is downloaded.

    Raises EngineError if the model or the environment is missing, or the model does not load.
    """
    with CometProcess(name) as process:
        process.score([CometSegment("a", "b", "c")])
        return process.model


def score_segments(
    name: str, segments: Sequence[CometSegment], report: SegmentReporter
) -> tuple[CometModel, list[int]]:
    """Return the model and the scores of the segments, in millionths and in the order of the segments.

    Scores of earlier calls come from the cache. Raises EngineError if the model or the environment is
    missing, or COMET's process ends.
    """
    with CometProcess(name) as process, closing(ScoreCache(process.model)) as cached:
        scores = {segment: cached.find(segment) for segment in dict.fromkeys(segments)}
        # Long segments come first, so that a lack of memory shows at once.
        missing = sorted(
            (segment for segment, score in scores.items() if score is None),
            key=lambda segment: (-len(segment.source), segment),
        )
        done = len(scores) - len(missing)
        report(done, len(scores))
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            new_scores = dict(zip(batch, process.score(batch), strict=True))
            cached.keep(new_scores)
            scores.update(new_scores)
            done += len(batch)
            report(done, len(scores))
        return process.model, [score for segment in segments if (score := scores[segment]) is not None]


def pooled_comet_score(model: CometModel, millionths: Sequence[int]) -> record.Comet:
    """Return the score of a task for its record: the mean and its bootstrap standard error."""
    counts = np.stack([np.ones(len(millionths), np.int64), np.array(millionths, np.int64)], axis=1)
    return record.Comet(
        name=model.name,
        digest=model.digest,
        version=model.version,
        value=float(mean_score(counts.sum(0))),
        stderr=stderr(counts, mean_score),
        n=len(millionths),
    )


def mean_score(counts: np.ndarray) -> np.ndarray:
    """Return the mean score of pooled (..., [n, millionths])."""
    return np.asarray(counts[..., 1] / counts[..., 0] / MILLION)


class CometProcess:
    """COMET's process, which loads its model at the first batch and ends with its context."""

    def __init__(self, name: str) -> None:
        # -I: PYTHONPATH and the user's site would put our packages before COMET's.
        command = [str(environment.environment_python()), "-I", "-W", "ignore", str(WORKER), name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            answer = self._read_answer()
        except BaseException:
            self.close()
            raise
        self.model = CometModel(_shown(name), answer["digest"], answer["version"])

    def score(self, batch: Sequence[CometSegment]) -> list[int]:
        """Return scores in millionths. Raises EngineError if the process ends or returns no numbers."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(batch).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error
        scores: list[float] = self._read_answer()
        if len(scores) != len(batch) or not all(map(math.isfinite, scores)):
            raise EngineError(f"{self.model.name}: expected {len(batch)} numbers, got {scores}")
        return [round(MILLION * value) for value in scores]

    def _read_answer(self) -> Any:
        """Return one answer of the process. Raises EngineError for an error of it, or if it has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise EngineError(answer["error"])
        return answer

    def _ended(self) -> EngineError:
        """Return the error for a process that has ended, with its exit status."""
        status = self._process.wait()
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        hint = ", as happens if memory runs out" if status == -signal.SIGKILL else ""
        return EngineError(
            f"COMET's process ended by itself ({how}{hint}). Finished scores are kept. Rerun the same "
            f"command to resume"
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
    """Return the last part of a model's folder, or the hub id. Records contain no paths."""
    path = Path(name).expanduser().resolve()
    if path.is_file():
        return path.parents[1].name
    return path.name if path.is_dir() else name


class ScoreCache:
    """Scores of a model on disk, by segment: `comet/<digest>-<version>.sqlite` in the cache folder.

    A batch is one transaction, so an interruption leaves no part of it.
    """

    def __init__(self, model: CometModel) -> None:
        self.path = cache.cache_folder() / "comet" / f"{model.digest[:16]}-{model.version}.sqlite"
        with self._file_named():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=60)
            self._database.execute(
                "create table if not exists scores (segment blob primary key, millionths int)"
            )

    def find(self, segment: CometSegment) -> int | None:
        """Return the score of a segment in millionths, or None if the cache does not have it."""
        with self._file_named():
            query = "select millionths from scores where segment = ?"
            row = self._database.execute(query, (_key(segment),)).fetchone()
        return int(row[0]) if row else None

    def keep(self, scored: dict[CometSegment, int]) -> None:
        """Write the scores of a batch."""
        with self._file_named(), self._database:
            rows = [(_key(segment), millionths) for segment, millionths in scored.items()]
            self._database.executemany("insert or replace into scores values (?, ?)", rows)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def _file_named(self) -> Iterator[None]:
        """Raise errors of the database as an EngineError that names the file."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise EngineError(
                f"{self.path}, the cache of COMET's scores, cannot be used ({error}). Remove it if it is "
                f"damaged, or choose another folder for the cache: export MIDALIGN_CACHE=FOLDER"
            ) from error


def _key(segment: CometSegment) -> bytes:
    return hashlib.sha256(json.dumps(segment).encode()).digest()
