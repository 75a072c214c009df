"""What a comparison's arms are worth against their baseline, with what alignment is known to wear away.

    python scripts/experiments/summary.py [RESULTS] [ARM]

A line an arm and role: differences in points from the baseline, or from ARM, with its 95% paired
interval, then retrieval and bits per character of the arm itself, means over the role's languages and seeds.
"""

import sys
from dataclasses import replace
from pathlib import Path

from midalign.languages import ROLES
from midalign.leaderboard.compare import compare_models
from midalign.leaderboard.load import load_runs
from midalign.leaderboard.sections import BoardRow, BoardSection, group_runs, language_sets
from midalign.leaderboard.statistics import Estimate

METRICS = ("slot_f1", "label_f1", "value_f1")
COMPANIONS = Path(__file__).parents[2] / "leaderboard" / "results" / "companions"


def main(results: str = str(COMPANIONS), against: str = "baseline") -> None:
    """Print the table of every section."""
    of_slots = [one for one in group_runs(load_runs(Path(results))) if set(METRICS) <= set(one.metrics)]
    arms = {row.arm for section in of_slots for row in section.rows}
    if against not in arms:
        sys.exit(f"{results} has no arm {against}, only {', '.join(sorted(arms))}")
    # The leaderboard holds arms against the one of this name.
    names = {"baseline": "task alone", against: "baseline"}
    for section in of_slots:
        rows = tuple(replace(row, arm=names.get(row.arm, row.arm)) for row in section.rows)
        section = replace(section, rows=rows)
        models, differences = compare_models(section)
        print(f"{section.group}, {section.first.record.base.name}, {section.first.record.sample.split} split")
        print(f"{'':20}{'seeds':>7}  {'role':12}" + "".join(f"{name:>22}" for name in METRICS), end="")
        print(f"{'retrieval':>11}{'bits/char':>11}")
        for model in models:
            row = next(row for row in section.rows if row.label == model.label)
            change = next((one for one in differences if one.model == model.label), None)
            for role in [one for one in ROLES if one in language_sets(section)]:
                estimates = [(change or model).means[metric][role] for metric in METRICS]
                cells = "".join(f"{shown(one, change is not None):>22}" for one in estimates)
                seeds = ",".join(str(seed) for seed in model.seeds if seed is not None)
                print(f"{model.label:20}{seeds:>7}  {role:12}{cells}{of_states(section, row, role)}")


def shown(estimate: Estimate, difference: bool) -> str:
    """In points: a score, or a difference with its interval."""
    value, low, high = (100 * one for one in (estimate.value, estimate.low, estimate.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]" if difference else f"{value:.1f}"


def of_states(section: BoardSection, row: BoardRow, role: str) -> str:
    """Retrieval in per cent and bits per character, means over languages and seeds."""
    codes = language_sets(section)[role]
    measured = [run.record.retrieval for run in row.runs if run.record.retrieval]
    found = ""
    for name, unit in (("accuracy", 100), ("bits_per_character", 1)):
        values = [
            getattr(one, name)[code] for one in measured for code in codes if code in getattr(one, name)
        ]
        found += f"{unit * sum(values) / len(values):11.2f}" if values else f"{'–':>11}"
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
