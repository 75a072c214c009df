"""Render conversations by a tokenizer's chat template, whether or not the template has a system role."""

from collections.abc import Mapping, Sequence
from typing import Any

from midalign.errors import BaseModelError

MARKER = "midalign-system-turn"
"""The text of a system turn that is rendered to see whether the template shows it."""

MERGED = "merged into the first user turn"
"""Note in records on system turns under a template without a system role."""


def require_template(tokenizer: Any, base: str) -> None:
    """Raise BaseModelError where the tokenizer has no chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise BaseModelError(
            f"The tokenizer of {base} has no chat template. Evaluate without one, or take the "
            f"instruction-tuned model"
        )


def has_system_role(tokenizer: Any, **arguments: Any) -> bool:
    """Return whether the chat template shows a system turn. Some templates ignore it, others reject it."""
    from jinja2.exceptions import TemplateError

    turns = [{"role": "system", "content": MARKER}, {"role": "user", "content": "question"}]
    try:
        return MARKER in tokenizer.apply_chat_template(turns, tokenize=False, **arguments)
    except TemplateError:
        return False


def merge_system_turn(turns: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return the turns with the system turn's text in the first user turn.

    An empty line separates it from the user's text.
    """
    system, user, *others = turns
    content = f"{system['content'].rstrip()}\n\n{user['content']}"
    return [{**user, "content": content}, *map(dict, others)]


def render(
    tokenizer: Any,
    turns: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = True,
    **arguments: Any,
) -> str:
    """Return the text of a conversation, the same for training and for every engine.

    A system turn that the template does not show goes into the first user turn. `arguments` are the
    template's own, such as `enable_thinking`. Raises BaseModelError where there is no chat template, or where
    it rejects the conversation.
    """
    from jinja2.exceptions import TemplateError

    base = str(tokenizer.name_or_path)
    require_template(tokenizer, base)
    conversation = list(map(dict, turns))
    if conversation[0]["role"] == "system" and not has_system_role(tokenizer, **arguments):
        conversation = merge_system_turn(conversation)
    try:
        text: str = tokenizer.apply_chat_template(
            conversation,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **arguments,
        )
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in conversation)
        raise BaseModelError(
            f"The chat template of {base} rejects a conversation of the turns {roles}: {error}. Evaluate and "
            f"train without a chat template"
        ) from error
    return text
