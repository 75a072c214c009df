"""Model cards with the scores of an adapter's records."""

from collections.abc import Sequence
from pathlib import Path

from midalign import record
from midalign.adapter import CONFIG, adapter_digest, base_digest
from midalign.leaderboard.exports import hub_results
from midalign.leaderboard.load import Run, runs_of_file
from midalign.model_card import folder_card


def runs_by_adapter(adapters: Sequence[Path], results: Path) -> dict[Path, list[Run]]:
    """Return the runs of all complete records of each adapter's weights, in the order of the records' names.

    Raises RecordError for a record of these weights whose figures do not follow from its items.
    """
    digests = {folder: _weights_digest(folder) for folder in adapters}
    runs: dict[str, list[Run]] = {digest: [] for digest in digests.values()}
    for path in sorted(results.glob(f"*{record.SUFFIX}"), key=lambda path: path.stem):
        entry = record.read_record(path)
        digest = entry.adapter.digest if entry.adapter else entry.base.digest
        if digest in runs and entry.shard is None:
            runs[digest] += runs_of_file(path, path.name)
    return {folder: runs[digest] for folder, digest in digests.items()}


def scored_card(folder: Path, runs: Sequence[Run]) -> str:
    """Return the model card of a folder with the scores of these runs."""
    records = {run.file: run.record for run in runs}
    scores = [score for of_model in hub_results(runs).values() for score in of_model]
    return folder_card(folder, list(records.values()), scores)


def _weights_digest(folder: Path) -> str:
    """Return the digest by which records name an adapter, or a whole model."""
    return adapter_digest(folder) if (folder / CONFIG).is_file() else base_digest(str(folder))
