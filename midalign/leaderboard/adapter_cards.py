"""Model cards with the scores of an adapter's records."""

from collections.abc import Sequence
from pathlib import Path

from midalign import record
from midalign.adapter import CONFIG, adapter_digest, base_digest
from midalign.leaderboard.exports import hub_results
from midalign.leaderboard.load import Run, runs_of_file
from midalign.model_card import folder_card


def scored_cards(adapters: Sequence[Path], results: Path) -> dict[Path, str]:
    """Return the model card of each folder, with the scores of all complete records of its weights.

    Raises RecordError for a record of these weights whose figures do not follow from its items.
    """
    digests = {folder: _weights_digest(folder) for folder in adapters}
    runs: dict[str, list[Run]] = {digest: [] for digest in digests.values()}
    for path in sorted(results.glob(f"*{record.SUFFIX}"), key=lambda path: path.stem):
        entry = record.read_record(path)
        digest = entry.adapter.digest if entry.adapter else entry.base.digest
        if digest in runs and entry.shard is None:
            runs[digest] += runs_of_file(path, path.name)
    cards = {}
    for folder in adapters:
        of_weights = runs[digests[folder]]
        records = {run.file: run.record for run in of_weights}
        scores = [score for scores in hub_results(of_weights).values() for score in scores]
        cards[folder] = folder_card(folder, list(records.values()), scores)
    return cards


def _weights_digest(folder: Path) -> str:
    """Return the digest by which records name an adapter, or a whole model."""
    return adapter_digest(folder) if (folder / CONFIG).is_file() else base_digest(str(folder))
