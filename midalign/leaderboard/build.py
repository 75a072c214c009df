"""Write a board, README.md, leaderboard.json and plots, from a folder of records."""

import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from midalign.errors import MidalignError
from midalign.files import write_atomically
from midalign.leaderboard import plots
from midalign.leaderboard.across_bases import BasesOverview, rank_across_bases
from midalign.leaderboard.comet_comparison import compare_by_comet
from midalign.leaderboard.compare import ModelFigures, compare_models, compare_other_pairs
from midalign.leaderboard.formatting import round_figures
from midalign.leaderboard.load import load_runs, record_sums
from midalign.leaderboard.page.write import FOLDER, write_page
from midalign.leaderboard.paired_comparison import Breakdown, PairedComparison, compare_pairs
from midalign.leaderboard.row_pairs import select_pairs
from midalign.leaderboard.section_figures import SectionFigures
from midalign.leaderboard.sections import group_runs, language_sets, resource_of
from midalign.leaderboard.statistics import DRAWS, LEVEL, bootstrap
from midalign.leaderboard.tables import MARK, render_page
from midalign.leaderboard.trust import file_sha256
from midalign.leaderboard.wording_tables import add_wordings

RECORD_SUMS = f"{FOLDER}/records.sha256"
"""Digests of the records that a board was built from, below its folder."""
FILE_SUMS = f"{FOLDER}/files.sha256"
"""Digests of the files that the build wrote, below the board's folder. Written last."""
LONGEST_SLUG = 120
"""Characters of a plot's file name. File systems take 255 bytes."""


def build_board(results: Path, output: Path) -> list[SectionFigures]:
    """Write the board of `results/*.json` into `output` and return its sections.

    The same records give the same bytes. Raises RecordError for invalid or conflicting records, and
    MidalignError if `output` has a README.md or index.html that this function did not write.
    """
    readme = output / "README.md"
    for path in (readme, output / "index.html"):
        if path.is_file() and MARK not in path.read_text("utf-8", errors="replace")[:100]:
            raise MidalignError(
                f"{path} was not written by midalign leaderboard build, so it is kept. "
                f"Choose another folder with --output"
            )
    sums = record_sums(results)
    parts = compare_records(results)
    overviews = rank_across_bases([part.section for part in parts])
    pictures = {part.plot: plots.plot_section(part) for part in parts}
    (output / "plots").mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        write_atomically(output / name, picture)
    write_atomically(output / "leaderboard.json", _json(parts, overviews).encode())
    write_atomically(readme, render_page(parts, overviews).encode())
    page = write_page(parts, output)
    write_atomically(output / RECORD_SUMS, sums.encode(), sync=False)
    written = sorted({"README.md", "leaderboard.json", RECORD_SUMS, *pictures, *page})
    digests = "".join(f"{file_sha256(output / name)}  {name}\n" for name in written)
    write_atomically(output / FILE_SUMS, digests.encode(), sync=False)
    return parts


def compare_records(results: Path | str, *, written: Collection[str] | None = None) -> list[SectionFigures]:
    """Compare the arms of a folder of records with their baselines.

    Args:
        results: folder of records.
        written: names of record files. Only groups with one of them are compared. None: all groups.

    Returns one entry per group of tasks, base and sample, those with the most evidence first. Raises
    RecordError as `load_runs` does.
    """
    parts: list[SectionFigures] = []
    for section in group_runs(load_runs(Path(results))):
        if written is not None and not any(run.file in written for row in section.rows for run in row.runs):
            continue
        entry = section.first.record
        sample = f"{entry.sample.split}-{entry.sample.limit or 'full'}"
        regime = "" if section.regime == "free" else f"-{section.regime}"
        regime += f"-wording{section.wording}" if section.wording != 1 else ""
        # A base may be a path or a hub id. Its last part suffices in a file name.
        slug = re.sub(
            r"[^A-Za-z0-9._-]+", "-", f"{section.group}-{Path(entry.base.name).name}-{sample}{regime}"
        )
        slug = slug[:LONGEST_SLUG]
        taken = sum(part.slug == slug or part.slug.startswith(f"{slug}-v") for part in parts)
        slug = f"{slug}-v{taken + 1}" if taken else slug
        scores = bootstrap(section)
        models, differences = compare_models(section, scores)
        pairs = compare_other_pairs(section, scores, differences)
        parts.append(SectionFigures(slug, section, models, differences, compare_by_comet(section), pairs))
    return sorted(add_wordings(parts), key=_evidence)


def _evidence(part: SectionFigures) -> tuple[bool, float, int]:
    """Return a sort key: test splits first, then many items per language, then many seeds."""
    sample = part.section.first.record.sample
    seeds = max(len(model.seeds) for model in part.models)
    return sample.split != "test", -(sample.limit or math.inf), -seeds


def compare_arms(
    first: Path | str,
    second: Path | str,
    *,
    by: Breakdown = "language",
    metric: str | None = None,
    results: Path | str = "leaderboard/results",
    sacrebleu: bool = False,
) -> list[PairedComparison]:
    """Compare two arms with each other.

    Args:
        first: a record, a folder of records of one arm that differ in their seed, or the name of an arm in
            `results`.
        second: the arm to compare `first` with, named in the same ways.
        by: one row per language, role or resource class.
        metric: groups without it are skipped. None: the tasks' headline.
        results: folder of records in which names of arms are looked up.
        sacrebleu: also run sacreBLEU's paired tests. Translation only.

    Returns one entry per group of tasks, base and sample. Raises RecordError as `load_runs` does, and for
    names without records or without items in common.
    """
    return compare_pairs(select_pairs(str(first), str(second), Path(results)), by, metric, sacrebleu)


def _json(parts: Sequence[SectionFigures], overviews: Sequence[BasesOverview]) -> str:
    board = {
        "schema_version": 2,
        "unit": "shares between 0 and 1, differences and gaps in the same unit",
        "interval": {"level": LEVEL, "draws": DRAWS, "method": "paired bootstrap over documents and seeds"},
        "sections": [_section(part) for part in parts],
        "across_bases": [
            {
                "group": overview.section.group,
                "sample": overview.section.first.record.sample.model_dump(),
                "sets": overview.sets,
                "missing": overview.missing,
                "differing": overview.differing,
                "models": [asdict(model) for model in overview.models],
            }
            for overview in overviews
        ],
    }
    return json.dumps(round_figures(board), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _section(part: SectionFigures) -> dict[str, Any]:
    section, entry = part.section, part.section.first.record
    return {
        "group": section.group,
        "headline": section.scorer.HEADLINE,
        "base": {
            **entry.base.model_dump(exclude={"tokenizer"}),
            **({"tokenizer": section.tokenizer} if section.tokenizer else {}),
        },
        "sample": entry.sample.model_dump(),
        "decoding": entry.decoding,
        "sets": language_sets(section),
        "languages": {
            code: {
                "role": section.role(code),
                "resource": resource_of(code),
                "repeated": section.repeated(code),
                **section.first.task(code).model_dump(
                    include={"n", "version", "signatures", "max_gen_toks", "data_digest", "prompt_digest"}
                ),
            }
            for code in section.languages
        },
        "models": [_model(model) for model in part.models],
        "differences": [asdict(difference) for difference in part.differences],
        "plot": part.plot,
        **({"comet": asdict(part.comet)} if part.comet else {}),
    }


def _model(model: ModelFigures) -> dict[str, Any]:
    """Return a row's figures. An unknown training dtype is omitted, as in boards of older records."""
    figures = asdict(model)
    if model.training_dtype is None:
        del figures["training_dtype"]
    return figures
