"""Further wordings of the tasks' prompts, which measure how much scores depend on the wording.

They ask for the same answers in the same form. Scores under different wordings never share a table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from midalign import harness
from midalign.data import EntityData, own
from midalign.data.registry import data_set
from midalign.errors import TaskError

FIRST = 1
"""Number of the wording in the task files, with which adapters are trained."""


@dataclass(frozen=True)
class Wording:
    """A prompt as lm-eval takes it: the instruction before any examples, and the template of an item."""

    description: str
    doc_to_text: str


_SLOTS = (
    Wording(
        "Extract the slots of the sentence in the order in which they appear. Answer with slot: value pairs "
        "separated by ; or with None if there are no slots.\n\n",
        "Sentence: {{utterance}}\nAnswer:",
    ),
    Wording(
        "What does the user specify? List it as slot: value; slot: value, ordered as in the request. If the "
        "user specifies nothing, write None.\n\n",
        "Request: {{utterance}}\nSlots:",
    ),
)
_TRANSLATION = (
    Wording("", "{{source_name}}: {{source}}\n{{target_name}}:"),
    Wording(
        "",
        "How do you say this in {{target_name}}?\n\n{{source_name}}: {{source}}\n"
        "{{target_name}} translation:",
    ),
)
_ENTITIES = (
    Wording(
        "Find the names of persons (PER), organisations (ORG) and places (LOC) in the sentence. Answer with "
        'JSON in order of appearance: {"entities": [{"type": "PER", "text": words of the sentence}]}\n\n',
        "Sentence: {{text}}\nAnswer:",
    ),
    Wording(
        "Which persons (PER), organisations (ORG) and places (LOC) does the text mention? List them as JSON, "
        'ordered as in the text: {"entities": [{"type": "LOC", "text": words of the text}]}\n\n',
        "Input: {{text}}\nOutput:",
    ),
)
_CALLS = (
    Wording(
        "Turn the sentence into a function call in JSON, its arguments in order of appearance: "
        '{"name": intent, "arguments": [{"slot": slot, "value": words of the sentence}]}\n\n',
        "Sentence: {{utterance}}\nAnswer:",
    ),
    Wording(
        "Which function does the user want to call, and with which arguments? Answer in JSON, the arguments "
        'ordered as in the request: {"name": intent, "arguments": [{"slot": slot, "value": words of the '
        "request}]}\n\n",
        "Request: {{utterance}}\nJSON:",
    ),
)
NUMBERS = (FIRST, 2, 3)
"""Numbers of the wordings."""
BARE = "{{utterance}}"
"""A prompt without words of its own."""


def reword_prompts(tasks: Mapping[str, Any], number: int) -> None:
    """Give lm-eval's task objects another wording.

    Raises TaskError for an unknown wording, and for a task without further wordings.
    """
    if number == FIRST:
        return
    if number not in NUMBERS:
        raise TaskError(f"Unknown wording {number!r} of the prompts: expected 1, 2 or 3")
    for name, task in tasks.items():
        wording = task_wordings(name)[number - 2]
        task.set_config(key="description", value=wording.description)
        task.set_config(key="doc_to_text", value=wording.doc_to_text)
        task.fewshot_cfg.doc_to_text = wording.doc_to_text


def task_wordings(name: str) -> tuple[Wording, Wording]:
    """Return the second and the third wording of a task's prompt. Raises TaskError if it has none."""
    metadata = harness.metadata(name)
    family, source = metadata["family"], metadata["source"]
    if family in ("slot", "slot_spans") and harness.prompt_template(name) != BARE:
        return _SLOTS
    if family == "translation":
        return _TRANSLATION
    if family == "structured" and not own.is_own(source):
        return _ENTITIES if isinstance(data_set(source), EntityData) else _CALLS
    raise TaskError(f"{name} has no further wordings of its prompt. Omit --wording, or the task")
