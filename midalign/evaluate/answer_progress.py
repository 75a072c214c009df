"""Progress of vLLM within a call."""

import time
from collections.abc import Callable, Iterable
from typing import Any


class AnswerProgress:
    """A stand-in for vLLM's bar that counts finished answers, each once even if a call is repeated.

    vLLM's own bar divides by its elapsed time, which is zero for the first answers of a coarse clock and
    whenever TQDM_DISABLE is set (_run_engine in vllm/entrypoints/common/offline.py).
    """

    def __init__(self, report: Callable[[int], None], models: int = 1) -> None:
        """Report items, each of which all of `models` answer."""
        self.report = report
        self.models = models
        self.reported = 0
        self.n = 0
        self.postfix = ""

    def __call__(self, prompts: Iterable[Any] | None = None, **_: Any) -> Any:
        """Return a bar for answers, or the prompts, which vLLM renders before and which do not count.

        vLLM passes the arguments of tqdm.
        """
        self.n, self.start = 0, time.monotonic()
        return self if prompts is None else prompts

    @property
    def format_dict(self) -> dict[str, float]:
        """The elapsed seconds, above zero."""
        return {"elapsed": max(time.monotonic() - self.start, 1e-9)}

    def update(self, count: int) -> None:
        """Count finished answers, and report those of which a failed call had not reported."""
        self.n += count
        items = self.n // self.models
        if items > self.reported:
            self.report(items - self.reported)
            self.reported = items

    def refresh(self) -> None:
        """Skip what tqdm does here, since `update` reports at once."""

    def close(self) -> None:
        """Skip what tqdm does here, since the bar belongs to the caller."""
