"""How long the leaderboard's page takes with 200 models and 300 tasks: to write, to open, to sort, to filter.

usage: python scripts/benchmarks/page.py      (needs chromium; six groups of 50 languages, made-up scores)
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from midalign import record
from midalign.languages import languages_of
from midalign.leaderboard.compare import ModelFigures
from midalign.leaderboard.load import Run
from midalign.leaderboard.page.write import write_page
from midalign.leaderboard.section_figures import SectionFigures
from midalign.leaderboard.sections import BoardRow, BoardSection, language_sets
from midalign.leaderboard.statistics import Estimate
from midalign.metrics import scorer

MODELS, GROUPS, LANGUAGES = 200, 6, 50
CODES = sorted(languages_of("massive"))[:LANGUAGES]
ROLES = record.Roles(supervised=CODES[:4], aligned=CODES[4:10], unseen=CODES[10:])
DIGEST = "0" * 64


def made_up_run(group: str, model: int) -> Run:
    """A run without counts: the page is made from figures."""
    task = {
        "family": "slot",
        "version": 2,
        "n": 300,
        "counts": {},
        "metrics": {},
        "data_digest": "data",
        "prompt_digest": DIGEST,
        "seconds": 1,
        "tokens": 1,
    }
    entry = record.Record(
        name=f"model-{model}",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        arm="baseline" if model else "base",
        seed=1,
        recipe=None,
        base=record.Base(name=f"base-{model % 7 + 1}b", digest=DIGEST),
        adapter=record.Adapter(name=f"model-{model}", digest=f"{model:064x}", manifest=None),
        roles=ROLES,
        engine=record.Engine(name="hf", dtype="bfloat16", device="cuda"),
        decoding={},
        sample=record.Sample(split="test", limit=300, seed=0),
        tasks={f"{group}_{code}": record.TaskResult(language=code, **task) for code in CODES},
        retrieval=None,
        packages={},
        seconds=1,
        tokens=1,
    )
    return Run(
        f"model-{model}.json",
        entry,
        group,
        {code: np.empty(0) for code in CODES},
        dict.fromkeys(CODES, ""),
        {},
    )


def made_up_section(group: str, generator: np.random.Generator) -> SectionFigures:
    """A section with a random score per model and language."""
    rows = tuple(
        BoardRow(f"model {model}", "baseline" if model else "base", (made_up_run(group, model),))
        for model in range(MODELS)
    )
    section = BoardSection(group, tuple(ROLES.supervised), tuple(ROLES.aligned), rows)
    metrics, sets = list(scorer("slot").METRICS), language_sets(section)

    def estimate() -> Estimate:
        value = generator.random()
        return Estimate(value, value - 0.03, value + 0.03, 0.015)

    models = [
        ModelFigures(
            label=row.label,
            arm=row.arm,
            recipe=None,
            seeds=[1],
            engine="hf",
            dtype="bfloat16",
            training_dtype=None,
            devices=["cuda"],
            records=[row.runs[0].file],
            means={metric: {name: estimate() for name in sets} for metric in metrics},
            spread={},
            gap={name: estimate() for name in ("aligned", "unseen")},
            retrieval=[],
            languages={code: {metric: estimate() for metric in metrics} for code in CODES},
            without_repeated={},
            cut_off=0,
            overlap=[],
            overlap_unchecked=[],
        )
        for row in rows
    ]
    return SectionFigures(group, section, models, [])


def seconds(action: Callable[[], object]) -> float:
    """The time that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def measure(page: Page, folder: Path) -> None:
    """A line per action of a reader."""

    def show(state: str, view: str) -> None:
        page.goto("about:blank")
        page.goto(f"file://{folder}/index.html#{state}")
        page.wait_for_selector(f'main[data-drawn="{view}"]')

    def until_drawn(action: str) -> None:
        # Resolved after the next frame, when what the action changed is on the screen.
        page.evaluate(f"new Promise(done => {{ {action}; requestAnimationFrame(() => setTimeout(done)); }})")

    sort = "document.querySelector('[data-sort=model]').click()"
    role = "midalign.state.change({role: 'aligned'})"
    actions: dict[str, Callable[[], None]] = {
        "open all models": lambda: show("", "overview"),
        "sort": lambda: until_drawn(sort),
        "filter by role": lambda: until_drawn(role),
        "open a task": lambda: show("view=task&task=midalign_slot_0", "task"),
        "compare two": lambda: show("view=compare&task=midalign_slot_0", "compare"),
    }
    for name, action in actions.items():
        print(f"{name}: {seconds(action):.2f} s", flush=True)


def main() -> None:
    """Write the page, and open it in chromium."""
    generator = np.random.default_rng(0)
    parts = [made_up_section(f"midalign_slot_{group}", generator) for group in range(GROUPS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{MODELS} models, {GROUPS * LANGUAGES} tasks", flush=True)
        print(f"write: {seconds(lambda: write_page(parts, folder)):.1f} s", flush=True)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        first = (folder / "page" / "data" / "index.js").stat().st_size
        print(f"size: {size / 1e6:.1f} MB, of which the first view reads {first / 1e6:.1f} MB")
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            measure(chromium.new_page(), folder)
            chromium.close()


if __name__ == "__main__":
    main()
