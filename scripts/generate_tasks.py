"""Write the task files under tasks/ from one template per family and midalign/languages.tsv.

usage: python scripts/generate_tasks.py [--check]      --check: change nothing, fail when a file is stale
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from midalign.data import EntityData, TranslationData  # noqa: E402
from midalign.data.registry import data_set  # noqa: E402
from midalign.families import family, translation  # noqa: E402
from midalign.languages import languages, languages_of  # noqa: E402
from midalign.metrics import scorer  # noqa: E402

FOLDER = ROOT / "tasks" / "midalign"
TABLE = ROOT / "scripts" / "target_bytes.tsv"
"""Longest answers, written by measure_targets.py."""
UNMEASURED = {"midalign_slot_xsid": "midalign_slot", "midalign_mt_flores": "midalign_mt_ntrex"}
"""Groups whose data is not available as a whole, and a group with answers of the same length."""
HEADER = "# Written by scripts/generate_tasks.py: change it there.\n"


@dataclass(frozen=True)
class Group:
    """One lm-eval group: a task per language, direction or treebank of its data set."""

    name: str
    family: str
    source: str
    version: int
    prompt: str

    @property
    def folder(self) -> Path:
        """Folder of its files. Slot filling scored as spans is slot filling."""
        return FOLDER / self.family.removesuffix("_spans") / self.name.removeprefix("midalign_")

    def languages(self) -> list[str]:
        """Return the languages, directions or treebanks of its tasks, in the data set's order."""
        data = data_set(self.source)
        if self.family == "translation" and isinstance(data, TranslationData):
            return data.directions()
        return list(data.treebanks()) if isinstance(data, EntityData) else languages_of(self.source)

    def task(self, language: str) -> str:
        """Return a task's name. xSID's tasks have its own codes, the others midalign's."""
        suffix = languages()[language].codes["xsid"].replace("-", "_") if self.source == "xsid" else language
        return f"{self.name}_{suffix}"


def longest_bytes(group: Group, language: str) -> int:
    """Return the UTF-8 bytes of the longest gold answer.

    For a language of an UNMEASURED group, return the length for the same language in the other group, or the
    largest of that group if it lacks the language.
    """
    if group.name not in UNMEASURED:
        try:
            return measured_bytes()[group.name][language]
        except KeyError:
            sys.exit(
                f"{TABLE.name} has no length of {group.task(language)}; "
                f"run python scripts/measure_targets.py {group.name}"
            )
    alike = measured_bytes()[UNMEASURED[group.name]]
    return alike.get(language) or max(alike.values())


@cache
def measured_bytes() -> dict[str, dict[str, int]]:
    """Return the bytes of TABLE by group and language."""
    measured: dict[str, dict[str, int]] = {}
    _, *lines = TABLE.read_text("utf-8").splitlines()
    for line in lines:
        group, language, size = line.split("\t")
        measured.setdefault(group, {})[language] = int(size)
    return measured


def max_gen_toks(group: Group, language: str) -> int:
    """Return the limit of an answer in tokens: a blank and the longest gold answer in bytes, 128 to 1,024.

    `midalign eval` replaces it by the number that the base's tokenizer needs. 1,024 leave the same number for
    the prompt if the base has a context of 2,048 tokens.
    """
    return min(max(round_up(longest_bytes(group, language) + 1, 64), 128), 1024)


def round_up(number: int, multiple: int) -> int:
    """Return the smallest multiple that is not below a number."""
    return (number + multiple - 1) // multiple * multiple


INSTRUCTED = r"""description: "Write the slots of the utterance as slot: value, separated by ; and in order \
  of appearance, or None if it has none.\n\n"
doc_to_text: "Utterance: {{utterance}}\nSlots:"
target_delimiter: " "
"""

BARE = """class: !function midalign.bare_task.BareTask
doc_to_text: "{{utterance}}"
target_delimiter: "\\n"
"""

TRANSLATE = r"""doc_to_text: "Translate from {{source_name}} to {{target_name}}.\n\n\
  {{source_name}}: {{source}}\n{{target_name}}:"
target_delimiter: " "
"""

ENTITIES = r"""description: "Write the persons (PER), organisations (ORG) and places (LOC) that the text \
  names as JSON, in order of appearance: \
  {\"entities\": [{\"type\": \"PER\", \"text\": words of the text}]}\n\n"
doc_to_text: "Text: {{text}}\nJSON:"
target_delimiter: " "
"""

CALL = r"""description: "Write the utterance as a function call in JSON, its arguments in order of \
  appearance: {\"name\": intent, \"arguments\": [{\"slot\": slot, \"value\": words of the utterance}]}\n\n"
doc_to_text: "Utterance: {{utterance}}\nJSON:"
target_delimiter: " "
"""

GROUPS = (
    Group("midalign_slot", "slot", "massive", 2, INSTRUCTED),
    Group("midalign_slot_bare", "slot", "massive", 2, BARE),
    Group("midalign_slot_xsid", "slot_spans", "xsid", 2, INSTRUCTED),
    Group("midalign_mini_slot", "slot", "mini", 2, INSTRUCTED),
    Group("midalign_mt_wmt23", "translation", "wmt23", 2, TRANSLATE),
    Group("midalign_mt_ntrex", "translation", "ntrex", 2, TRANSLATE),
    Group("midalign_mt_flores", "translation", "flores", 2, TRANSLATE),
    Group("midalign_mini_mt", "translation", "mini", 2, TRANSLATE),
    Group("midalign_json_uner", "structured", "uner", 2, ENTITIES),
    Group("midalign_json_call", "structured", "massive", 2, CALL),
    Group("midalign_mini_json", "structured", "mini", 2, CALL),
)


@cache
def alike(group: Group) -> bool:
    """Return whether all tasks have the same limit, which then is in the shared file.

    lm-eval does not merge `generation_kwargs` of the two files.
    """
    return len({max_gen_toks(group, language) for language in group.languages()}) == 1


def generation(group: Group, language: str) -> str:
    """Return the decoding options: greedy, one line, up to the task's limit."""
    return (
        'generation_kwargs:\n  until: ["\\n"]\n  do_sample: false\n  temperature: 0.0\n'
        f"  max_gen_toks: {max_gen_toks(group, language)}\n"
    )


def shared(group: Group) -> str:
    """Return the file that the tasks of a group include. It has no `.yaml`, so lm-eval does not index it."""
    module = f"midalign.families.{group.family}"
    scored = scorer(group.family)
    metrics = "".join(
        f"  - metric: {metric}{suffix}\n"
        f"    aggregation: !function {module}.{metric}{suffix}\n"
        f"    higher_is_better: {json.dumps(None if suffix else scored.METRICS[metric].higher_is_better)}\n"
        for metric in family(group.family).metrics({"source": group.source})
        for suffix in ("", "_stderr")
    )
    return (
        HEADER + f"custom_dataset: !function {module}.dataset\n"
        "training_split: train\nvalidation_split: validation\ntest_split: test\n"
        # The evaluated split, so that lm-eval tells the sampler which document it draws for.
        "fewshot_split: test\n"
        "fewshot_config:\n  process_docs: !function midalign.families.shots.pool\n"
        "  sampler: !function midalign.few_shots.OtherTexts\n"
        "output_type: generate_until\n" + group.prompt + 'doc_to_target: "{{target}}"\n'
        f"process_results: !function {module}.process_results\n"
        f"{generation(group, group.languages()[0]) if alike(group) else ''}"
        "metric_list:\n" + metrics
    )


def leaf(group: Group, language: str) -> str:
    """Return the file of one task."""
    return (
        f"{HEADER}include: _{group.name}\ntask: {group.task(language)}\n"
        f"{absent_splits(group, language)}"
        f"{generation(group, language) if not alike(group) else ''}"
        f"metadata:\n  version: {group.version}\n  family: {group.family}\n  source: {group.source}\n"
        + part_metadata(group, language)
    )


def absent_splits(group: Group, language: str) -> str:
    """Return lines for the splits that a treebank or direction lacks."""
    keys = {"train": "training_split", "validation": "validation_split"}
    if isinstance(data := data_set(group.source), EntityData):
        present = data.splits(language)
    elif group.family == "translation":
        present = translation.direction_splits(group.source, language)
    else:
        return ""
    return "".join(f"{key}: null\n" for split, key in keys.items() if split not in present)


def part_metadata(group: Group, part: str) -> str:
    """Return the language of a task, which decides its role, and its treebank if it has one."""
    if isinstance(data := data_set(group.source), EntityData):
        return f"  language: {data.treebanks()[part]}\n  treebank: {part}\n"
    return f"  language: {part}\n"


def is_within_english(task: str) -> bool:
    """Return whether a direction has English on both sides, where most references equal their sources."""
    return {code.partition("_")[0] for code in task.split("-")} == {"en"} and "-" in task


def whole(group: Group) -> str:
    """Return the file of a group: with a macro mean over languages if their scores can be compared."""
    members = [language for language in group.languages() if not is_within_english(language)]
    tasks = "".join(f"  - {group.task(language)}\n" for language in members)
    metrics = "".join(
        f"  - metric: {metric}\n    aggregation: mean\n    weight_by_size: false\n"
        for metric in family(group.family).metrics({"source": group.source})
    )
    mean = f"aggregate_metric_list:\n{metrics}" if scorer(group.family).COMPARABLE else ""
    return f"{HEADER}group: {group.name}\ntask:\n{tasks}{mean}metadata:\n  version: {group.version}\n"


def several(name: str, groups: Sequence[str]) -> str:
    """Return the file of a group of groups."""
    members = "".join(f"  - {group}\n" for group in groups)
    return f"{HEADER}group: {name}\ntask:\n{members}metadata:\n  version: 1\n"


def span_list(label: str, labels: Sequence[str], text: str) -> dict[str, Any]:
    """Return the schema of a list of spans: objects with a label of a closed set and a text."""
    span = {
        "type": "object",
        "properties": {
            label: {"type": "string", "enum": list(labels)},
            text: {"type": "string", "minLength": 1},
        },
        "required": [label, text],
        "additionalProperties": False,
    }
    return {"type": "array", "items": span}


def call_schema(intents: Sequence[str], slots: Sequence[str]) -> dict[str, Any]:
    """Return the schema of a function call."""
    return answer_schema(
        "An utterance as a function call, its arguments in order of appearance.",
        {
            "name": {"type": "string", "enum": list(intents)},
            "arguments": span_list("slot", slots, "value"),
        },
    )


def answer_schema(description: str, properties: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of draft 2020-12 for an object with exactly these properties."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "description": description,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of the answers by data set of the structured tasks."""
    found = {}
    for source in dict.fromkeys(group.source for group in GROUPS if group.family == "structured"):
        data = data_set(source)
        if isinstance(data, EntityData):
            entities = {"entities": span_list("type", data.TYPES, "text")}
            found[source] = answer_schema("The entities of a text in order of appearance.", entities)
        else:
            found[source] = call_schema(data.labels("intent"), data.labels("slot"))
    return found


def files() -> dict[Path, str]:
    """Return the content of every file by path."""
    found = {}
    for group in GROUPS:
        found[group.folder / f"_{group.name}"] = shared(group)
        found[group.folder / f"{group.name}.yaml"] = whole(group)
        for language in group.languages():
            found[group.folder / f"{group.task(language)}.yaml"] = leaf(group, language)
    mt_groups = [group.name for group in GROUPS if group.name.startswith("midalign_mt_")]
    found[FOLDER / "translation" / "midalign_mt.yaml"] = several("midalign_mt", mt_groups)
    json_groups = [group.name for group in GROUPS if group.name.startswith("midalign_json_")]
    found[FOLDER / "structured" / "midalign_json.yaml"] = several("midalign_json", json_groups)
    mini_groups = [group.name for group in GROUPS if group.name.startswith("midalign_mini_")]
    found[FOLDER / "midalign_mini.yaml"] = several("midalign_mini", mini_groups)
    for source, schema in schemas().items():
        found[FOLDER / "structured" / f"{source}.schema.json"] = json.dumps(schema, indent=1) + "\n"
    return found


def main() -> None:
    """Write new and changed files and remove obsolete ones. With --check, exit with an error instead."""
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
