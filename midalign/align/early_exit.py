"""Stop a forward pass once the required layer is computed."""

from collections.abc import Mapping
from typing import Any

from torch import nn


class EarlyExit(Exception):  # noqa: N818 - not an error
    """Raised by a hook to leave the model's forward, which then returns `output`."""

    def __init__(self, output: object) -> None:
        self.output = output


def run_until_exit(model: nn.Module, inputs: Mapping[str, object]) -> Any:
    """Run `model(**inputs)` without a key-value cache, and return its output or that of a hook's EarlyExit.

    The exception is caught inside the call, so that the model's own forward hooks still see an output. FSDP
    reduces gradients from such hooks, and would silently skip it otherwise.
    """
    forward, is_patched = model.forward, "forward" in vars(model)

    def as_far(*arguments: object, **keywords: object) -> object:
        try:
            return forward(*arguments, **keywords)
        except EarlyExit as early:
            return early.output

    model.forward = as_far
    try:
        return model(**inputs, use_cache=False)
    finally:
        if is_patched:
            model.forward = forward
        else:
            del model.forward
