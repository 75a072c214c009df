"""The proof that each adapter acts in vLLM, by log probabilities of the probe's tokens.

vLLM serves the base silently where the names of an adapter's weights do not match its modules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from midalign.errors import AdapterError, EngineError
from midalign.evaluate import live

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 0.25
"""Largest mean difference between the engines' log probabilities of a token, in nats."""

NOISE = 3.0
"""Times that the difference between the engines may be larger with an adapter than without."""


class ProbedEngine(Protocol):
    """An engine that gives log probabilities as the base or one of its adapters."""

    def use(self, adapter: str | None) -> None:
        """Answer with the adapter of that name, or as the base."""

    def probe_logprobs(self, ids: Sequence[int]) -> list[float]:
        """Return the log probability of each token but the first, given those before it."""


@dataclass(frozen=True)
class ProbeReference:
    """Transformers' predictions of the probe."""

    ids: list[int]
    """Tokens of the probe."""
    logits: "dict[str, Tensor]"
    """Logits (tokens, vocabulary) by adapter, in fp32. Tokens that an adapter trains follow the probe."""
    logprobs: dict[str | None, list[float]]
    """Log probabilities of the tokens but the first, by adapter. None is the base."""


def take_reference(model: Any, tokenizer: Any, folders: Mapping[str, Path]) -> ProbeReference:
    """Return transformers' predictions as the base and with each adapter attached to `model`."""
    ids = list(tokenizer(live.PROBE)["input_ids"])
    logits = {}
    base = token_logprobs(live.probe_logits(model, tokenizer), ids)
    logprobs: dict[str | None, list[float]] = {None: base}
    for name, folder in folders.items():
        live.switch(model, name)
        logits[name] = live.probe_logits(model, tokenizer, folder)
        logprobs[name] = token_logprobs(logits[name], ids)
    live.switch(model, None)
    return ProbeReference(ids, logits, logprobs)


def token_logprobs(logits: "Tensor", ids: Sequence[int]) -> list[float]:
    """Return the log probability of each token but the first, from logits (tokens or more, vocabulary)."""
    import torch

    logprobs = logits[: len(ids) - 1].float().log_softmax(-1)
    return [float(p) for p in logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]]


def prove_vllm_serves(engine: ProbedEngine, reference: ProbeReference, folders: Mapping[str, Path]) -> None:
    """Raise an error unless vLLM answers as transformers does, as the base and with each adapter.

    Each adapter must differ from the base in vLLM, and agree with transformers within `allowed_difference`.

    Raises:
        AdapterError: an adapter does not act, or acts in part.
        EngineError: vLLM and transformers differ on the base itself.
    """
    engine.use(None)
    base = engine.probe_logprobs(reference.ids)
    base_difference = mean_difference(base, reference.logprobs[None])
    if not base_difference <= TOLERANCE:
        raise EngineError(
            f"vLLM and transformers disagree on the base: the log probabilities of a probe's tokens differ "
            f"by {base_difference:.2f} nats per token, and {TOLERANCE} are allowed. Use the other engine: "
            f"--engine hf"
        )
    for name, folder in folders.items():
        engine.use(name)
        found, expected = engine.probe_logprobs(reference.ids), reference.logprobs[name]
        effect = mean_difference(expected, reference.logprobs[None])
        if found == base:
            raise AdapterError(
                f"The adapter {folder} does nothing in vLLM: its log probabilities on a probe equal those of "
                f"the base. With transformers they differ by {effect:.1e} nats per token. If that is zero, "
                f"train the adapter again, or skip it. Otherwise use the other engine: --engine hf"
            )
        difference = mean_difference(found, expected)
        allowed = allowed_difference(effect, base_difference)
        if not difference <= allowed:
            raise AdapterError(
                f"The adapter {folder} acts differently in vLLM than with transformers: the log "
                f"probabilities of a probe's tokens differ by {difference:.1e} nats per token, and "
                f"{allowed:.1e} are allowed. Use the other engine: --engine hf"
            )
    engine.use(None)


def allowed_difference(effect: float, base_difference: float) -> float:
    """Return the largest difference between the engines with an adapter, in nats per token.

    It is at most TOLERANCE. Within that, it is half of the adapter's effect, so that an adapter of which half
    is missing is found, or NOISE times the difference between the engines without an adapter, if rounding
    alone makes more than half of the effect.
    """
    return min(TOLERANCE, max(effect / 2, NOISE * base_difference))


def mean_difference(logprobs: Sequence[float], others: Sequence[float]) -> float:
    """Return the mean absolute difference of log probabilities, in nats per token."""
    return sum(abs(a - b) for a, b in zip(logprobs, others, strict=True)) / len(logprobs)
