"""The lm-eval task whose prompts are the bare text."""

from typing import Any

from lm_eval.api.task import ConfigurableTask


class BareTask(ConfigurableTask):
    """A task whose plain prompts end with the target delimiter.

    lm-eval expects the delimiter at the beginning of the answer. If it is a line break, the model would stop
    there, since a line break ends an answer. A chat template separates question and answer itself, so a
    user's turn has no delimiter.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        """Take the YAML's fields except `class`, which names this class."""
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def build_qa_turn(self, *, a: Any = None, tgt_delim: str = " ", **turn: Any) -> Any:
        """Return a question, and its answer if it has one, as lm-eval's messages."""
        messages = super().build_qa_turn(a=a, tgt_delim=tgt_delim, **turn)
        messages[0]._delimiter = tgt_delim  # lm-eval writes it in plain text only
        return messages
