"""Write the task files under tasks/ from one template a group and midalign/languages.tsv.

usage: python scripts/generate_tasks.py [--check]      --check: change nothing, fail when a file is stale
"""

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from midalign.languages import Language, languages  # noqa: E402
from midalign.metrics.slot import METRICS  # noqa: E402

FOLDER = ROOT / "tasks" / "midalign" / "slot"
LOWER_IS_BETTER = ("values_not_in_utterance",)


@dataclass(frozen=True)
class Group:
    """One lm-eval group: a task for every language of its source."""

    name: str
    source: str
    version: int
    prompt: str

    def languages(self) -> list[Language]:
        """The languages that the source has, in the table's order."""
        return [language for language in languages().values() if getattr(language, self.source)]


INSTRUCTED = r"""description: "Write the slots of the utterance as slot: value, separated by ; and in order \
  of appearance, or None if it has none.\n\n"
doc_to_text: "Utterance: {{utterance}}\nSlots:"
target_delimiter: " "
"""

BARE = """doc_to_text: "{{utterance}}"
target_delimiter: "\\n"
"""

GROUPS = (
    Group("midalign_slot", "massive", 1, INSTRUCTED),
    Group("midalign_slot_bare", "massive", 1, BARE),
    Group("midalign_mini_slot", "mini", 1, INSTRUCTED),
)

HEADER = "# Written by scripts/generate_tasks.py: change it there.\n"


def shared(group: Group) -> str:
    """What the tasks of a group have in common; the name keeps lm-eval from indexing it."""
    metrics = "".join(
        f"  - metric: {metric}{suffix}\n"
        f"    aggregation: !function midalign.families.slot.{metric}{suffix}\n"
        f"    higher_is_better: {'false' if suffix or metric in LOWER_IS_BETTER else 'true'}\n"
        for metric in METRICS
        for suffix in ("", "_stderr")
    )
    return (
        HEADER + "custom_dataset: !function midalign.families.slot.dataset\n"
        "training_split: train\nvalidation_split: validation\ntest_split: test\nfewshot_split: shots\n"
        "fewshot_config:\n  sampler: first_n\n"
        "output_type: generate_until\n" + group.prompt + 'doc_to_target: "{{target}}"\n'
        "process_results: !function midalign.families.slot.process_results\n"
        'generation_kwargs:\n  until: ["\\n"]\n  do_sample: false\n  temperature: 0.0\n  max_gen_toks: 128\n'
        "metric_list:\n" + metrics
    )


def leaf(group: Group, language: Language) -> str:
    """The task of one language."""
    return (
        f"{HEADER}include: _{group.name}\ntask: {group.name}_{language.code}\n"
        f"metadata:\n  version: {group.version}\n  family: slot\n"
        f"  source: {group.source}\n  language: {language.code}\n"
    )


def whole(group: Group) -> str:
    """The group: a macro mean over languages."""
    tasks = "".join(f"  - {group.name}_{language.code}\n" for language in group.languages())
    metrics = "".join(
        f"  - metric: {metric}\n    aggregation: mean\n    weight_by_size: false\n" for metric in METRICS
    )
    return (
        f"{HEADER}group: {group.name}\ntask:\n{tasks}aggregate_metric_list:\n{metrics}"
        f"metadata:\n  version: {group.version}\n"
    )


def files() -> dict[Path, str]:
    """Every file by path."""
    found = {}
    for group in GROUPS:
        folder = FOLDER / group.name.removeprefix("midalign_")
        found[folder / f"_{group.name}"] = shared(group)
        found[folder / f"{group.name}.yaml"] = whole(group)
        for language in group.languages():
            found[folder / f"{group.name}_{language.code}.yaml"] = leaf(group, language)
    return found


def main() -> None:
    """Write what differs and remove what is no longer generated, or say that it would be."""
    expected = files()
    present = {path for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".md"}
    stale = [
        path for path, text in expected.items() if path not in present or path.read_text("utf-8") != text
    ]
    stale += sorted(present - set(expected))
    if "--check" in sys.argv:
        if stale:
            names = ", ".join(str(path.relative_to(ROOT)) for path in stale[:5])
            sys.exit(f"{len(stale)} task files are stale ({names}); run python scripts/generate_tasks.py")
        return
    for path in stale:
        if path not in expected:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(expected[path], "utf-8")
    print(f"{len(stale)} of {len(expected)} files written")


if __name__ == "__main__":
    main()
