"""The vLLM engine: live adapters on CUDA, one merged copy of the base at a time on a CPU.

It is available in lm-eval as `--model midalign-vllm`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from midalign import chat
from midalign.device import device, fast_dtype, free_memory
from midalign.errors import AdapterError, MidalignError
from midalign.evaluate import constrain, generation, tokenizers, vllm_limits
from midalign.evaluate.answer_progress import AnswerProgress
from midalign.evaluate.gpu_memory import measured_gpus
from midalign.evaluate.requests import (
    Answer,
    Finish,
    Generated,
    Greedy,
    cut_at_stop,
    even_parts,
    greedy_settings,
    prompt_room,
    report_truncated,
)
from midalign.evaluate.thoughts import BUDGET, Thinking, Thoughts, sampled_thoughts_error
from midalign.evaluate.vllm_start import EngineLog, is_full, prepare_vllm, start_vllm, watch_processes

prepare_vllm()

from lm_eval.models.utils import truncate_tokens  # noqa: E402
from lm_eval.models.vllm_causallms import VLLM  # noqa: E402
from tqdm import tqdm  # noqa: E402
from vllm import LLM, SamplingParams, TokensPrompt  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.sampling_params import StructuredOutputsParams  # noqa: E402
from vllm.v1.engine.exceptions import EngineDeadError  # noqa: E402

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

log = logging.getLogger(__name__)

Result = TypeVar("Result")

AT_ONCE = 2_000
"""Most items of a call. vLLM compiles the grammars of a call's items before it answers, about half a megabyte
each, and an interrupted call is repeated."""


class MidalignVLLM(VLLM):
    """lm-eval's vLLM model with switched adapters, constraints and thoughts."""

    items_at_once = 512 if device() == "cpu" else AT_ONCE
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
        # vLLM would fall back to another library for grammars that xgrammar rejects.
        kwargs |= {"structured_outputs_config": {"backend": "xgrammar"}}
        kwargs["dtype"] = fast_dtype() if dtype == "auto" else dtype
        if device() == "cpu":
            kwargs = {"gpu_memory_utilization": 0.2, "enforce_eager": True} | kwargs
        vllm_limits.check_one_engine(kwargs)
        kwargs |= self._serving_adapters(pretrained, kwargs, list((adapters or {}).values()))
        if not (kwargs.get("max_length") or kwargs.get("max_model_len")):
            kwargs["max_length"] = vllm_limits.max_length(vllm_limits.served_config(pretrained, kwargs))
        self.engine_log = EngineLog()
        self.has_restarted = False
        self.measured_gpus = measured_gpus(kwargs)
        start_vllm(
            lambda share: super(MidalignVLLM, self).__init__(
                pretrained=pretrained, **({"gpu_memory_utilization": share} if share else {}), **kwargs
            ),
            *(self.measured_gpus, self.engine_log),
        )
        watch_processes(self.model.llm_engine.engine_core)
        self.enable_thinking = enable_thinking
        config = generation.base_generation_config(
            pretrained, kwargs.get("revision"), bool(kwargs.get("trust_remote_code"))
        )
        self.generation_config = config
        self.ignored = generation.report_ignored(generation.acting_settings(config))
        """Generation settings of the base that would change greedy answers. vLLM ignores them, since requests
        have sampling parameters."""
        self.constrained = constrained
        self.on_output: Callable[[int], None] | None = None
        self.generated: dict[tuple[str, int], Generated] = {}
        self.together: tuple[str | None, ...] = ()
        """The live adapters that one call answers with, or the base alone."""
        self.kept: dict[str | None, dict[tuple[str, int], Generated]] = {}
        """Answers with adapters of `together` that have not been asked for yet."""
        if constrained:
            vllm_limits.check_biases(self.markup)

    def _serving_adapters(
        self, pretrained: str, settings: Mapping[str, Any], folders: Sequence[Path]
    ) -> dict[str, Any]:
        """Return vLLM's settings for live adapters, ours or the one that lm-eval was given.

        Raises AdapterError or EngineError for adapters that vLLM does not serve.
        """
        adapter = settings.get("lora_local_path")
        if adapter and Path(adapter).is_dir():
            folders = [*folders, Path(adapter)]
            tokenizers.check_tokenizer(Path(adapter), pretrained, chat=True)
        if not folders:
            return {}
        config = vllm_limits.served_config(pretrained, settings)
        vllm_limits.check_adapters(folders, config, settings["dtype"], device())
        return {
            "enable_lora": True,
            "max_loras": settings.get("max_loras", 1),
            "max_lora_rank": vllm_limits.max_lora_rank(folders),
        }

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

    def use(self, adapter: str | None, also: Sequence[str] = ()) -> None:
        """Answer with the adapter of that name, or as the base.

        `also` names further adapters that answer the next requests in the same batch. Their answers are kept
        until they are in use. Models that think answer one after the other.

        Raises AdapterError, and keeps answering as before, for an adapter that vLLM rejects.
        """
        if self.requests:
            request = None if adapter is None else self.requests[adapter]
            if request is not None:
                self._add_adapter(request)
            self.lora_request = request
            self.together = (adapter, *(name for name in also if name != adapter and not self.thinking))
            self.kept = self.kept if also else {}
        elif adapter != self.loaded:
            self._run(lambda: self._load(adapter))

    def _add_adapter(self, request: LoRARequest) -> None:
        """Load a live adapter before any request: vLLM's process would die of one that it rejects."""
        try:
            self._run(lambda: self.model.llm_engine.add_lora(request))
        except MidalignError:
            raise
        except Exception as error:  # vLLM's processes send the text of their errors in a bare Exception
            reason = " ".join(str(error).split())
            raise AdapterError(
                f"vLLM rejects the adapter {request.lora_path}: {reason[:500]}. Use the other engine: "
                f"--engine hf"
            ) from error

    def _load(self, name: str | None) -> None:
        """Load the weights of the base or of a merged copy."""
        self.model.collective_rpc("reload_weights", kwargs={"weights_path": self.folders[name]})
        self.model.reset_prefix_cache()
        self.loaded = name

    def probe_logprobs(self, ids: Sequence[int]) -> list[float]:
        """Return the log probability of each token but the first, given those before it."""
        sampling = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        (output,) = self._outputs([list(ids)], [sampling])
        return [float(step[id].logprob) for step, id in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
        """Return answers in the order of the requests.

        Requests that are not greedy go to lm-eval's own loop.
        """
        # 1. Take answers that are kept, or read the requests. One that is not greedy sends all to lm-eval.
        self.generated = self.kept.pop(self.together[0], {}) if self.together else {}
        keys = [(str(request.task_name), int(request.doc_id)) for request in requests]
        if keys and self.generated.keys() == set(keys):
            if self.on_output is not None:
                self.on_output(len(keys))
            return [self.generated[key].text for key in keys]
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
        # 3. Answer in calls of at most AT_ONCE, and keep text, end and tokens of each answer by each model.
        models = self.together or (None,)
        by_model: list[dict[tuple[str, int], Generated]] = [{} for _ in models]
        with tqdm(total=len(requests), disable=disable_tqdm or self.on_output is not None) as bar:
            for part in even_parts(len(requests), max(1, AT_ONCE // len(models))):
                progress = AnswerProgress(self.on_output or bar.update, len(models))
                answers = self._answers(requests[part], greedies[part], prompts[part], progress)
                progress.update(len(answers) - progress.n)
                for of_model, its in zip(by_model, even_parts(len(answers), len(keys[part])), strict=True):
                    for key, greedy, whole, prompt, answer in zip(
                        keys[part], greedies[part], ids[part], prompts[part], answers[its], strict=True
                    ):
                        of_model[key] = Generated(
                            cut_at_stop(answer.text, greedy.until),
                            answer.finish,
                            len(prompt),
                            answer.tokens,
                            len(prompt) < len(whole),
                        )
        self.generated, *others = by_model
        self.kept |= dict(zip(models[1:], others, strict=True))
        done = [self.generated[key] for key in keys]
        report_truncated([str(request.task_name) for request in requests], done, self.max_length)
        for request, generated in zip(requests, done, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, generated.text)
        return [generated.text for generated in done]

    def _model_generate(
        self, requests: list[list[int]], generate: bool = False, sampling_params: Any = None
    ) -> list[Any]:
        """Return vLLM's outputs to lm-eval's own loops, without vLLM's bar: see AnswerProgress."""
        if not generate or sampling_params is None:
            sampling_params = SamplingParams(temperature=0, prompt_logprobs=1, max_tokens=1, detokenize=False)
        several = isinstance(sampling_params, list)
        return self._outputs(requests, sampling_params if several else [sampling_params] * len(requests))

    def _outputs(
        self,
        prompts: Sequence[list[int]],
        sampling: Sequence[SamplingParams],
        progress: AnswerProgress | None = None,
        loras: Sequence[Any] = (),
    ) -> list[Any]:
        """Return vLLM's outputs, by the adapter in use or by one of `loras` per prompt."""
        if not prompts:
            return []
        outputs: list[Any] = self._run(
            lambda: self.model.generate(
                [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts],
                list(sampling),
                lora_request=loras or self.lora_request,
                use_tqdm=progress or False,
            )
        )
        return outputs

    def _completions(
        self,
        prompts: Sequence[list[int]],
        sampling: Sequence[SamplingParams],
        progress: AnswerProgress | None = None,
        loras: Sequence[Any] = (),
    ) -> list[Any]:
        """Return vLLM's first completion of each prompt."""
        return [output.outputs[0] for output in self._outputs(prompts, sampling, progress, loras)]

    def _run(self, call: Callable[[], Result]) -> Result:
        """Return the result of a call to vLLM, which is repeated in a new process if the first one dies.

        Raises EngineError if vLLM dies a second time, or if memory is full while it lives.
        """
        while True:
            try:
                return call()
            except Exception as error:
                cause = self.engine_log.cause_of(error)
                is_dead = isinstance(error, EngineDeadError)
                if not is_dead and not is_full(cause):
                    raise
                if self.has_restarted or not is_dead:
                    problem = f"vLLM {'ended' if is_dead else 'ran out of memory'} while it answered"
                    raise self.engine_log.failure(problem, cause, self.measured_gpus) from error
            log.warning("vLLM ended while it answered (%s). Starting it again, once", cause)
            self._restart()

    def _restart(self) -> None:
        """Start another process of vLLM in place of a dead one, with the weights that were loaded last."""
        self.has_restarted = True
        self.model.llm_engine.engine_core.shutdown()
        del self.model
        free_memory()
        start_vllm(self._start_again, self.measured_gpus, self.engine_log)
        if self.loaded is not None:
            self._load(self.loaded)

    def _start_again(self, share: float | None) -> None:
        if share is not None:
            self.model_args["gpu_memory_utilization"] = share
        self.model = LLM(**self.model_args)
        watch_processes(self.model.llm_engine.engine_core)

    def _answers(
        self,
        requests: "Sequence[Instance]",
        settings: Sequence[Greedy],
        prompts: Sequence[list[int]],
        progress: AnswerProgress,
    ) -> list["Answer"]:
        """Return the answers of one model after the other, after thoughts if the model thinks."""
        if self.thinking:
            return self._answer_after_thoughts(self.thinking, requests, settings, prompts)
        sampling = [
            self._sampling(request, greedy) for request, greedy in zip(requests, settings, strict=True)
        ]
        models = max(1, len(self.together))
        loras = [name and self.requests[name] for name in self.together for _ in prompts]
        completions = self._completions([*prompts] * models, sampling * models, progress, loras)
        return [
            Answer(self._text(output.token_ids), _finish(output), len(output.token_ids))
            for output in completions
        ]

    def _answer_after_thoughts(
        self,
        thinking: Thinking,
        requests: "Sequence[Instance]",
        settings: Sequence[Greedy],
        prompts: Sequence[list[int]],
    ) -> list["Answer"]:
        """Return the answers after thoughts, which are generated first."""
        thoughts = self._think(thinking, prompts)
        ids: list[list[int]] = [[] for _ in prompts]
        finish: list[Finish] = ["stop" if thought.stopped else "length" for thought in thoughts]
        # An output without thoughts is the answer, but not if it was to be constrained: then the answer is
        # generated from the prompt again.
        at_once = [thought.stopped and not self.constrained for thought in thoughts]
        open_ = [
            i for i, thought in enumerate(thoughts) if thought.ended or (thought.stopped and self.constrained)
        ]
        while open_:
            outputs = self._completions(
                [prompts[i] + (thoughts[i].ids if thoughts[i].ended else []) + ids[i] for i in open_],
                [self._sampling(requests[i], settings[i], len(ids[i])) for i in open_],
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

    def _think(self, thinking: Thinking, prompts: Sequence[list[int]]) -> list[Thoughts]:
        """Return the thoughts after each prompt, empty after prompts that end the thoughts themselves."""
        thoughts = [Thoughts([], ended=True) for _ in prompts]
        open_ = [i for i, prompt in enumerate(prompts) if not thinking.is_closed(self.tokenizer, prompt)]
        end: dict[str, Any] = (
            {"stop": [thinking.end]} if isinstance(thinking.end, str) else {"stop_token_ids": [thinking.end]}
        )
        sampling = SamplingParams(
            temperature=0.0, max_tokens=thinking.budget, skip_special_tokens=False, **end
        )
        outputs = self._completions([prompts[i] for i in open_], [sampling] * len(open_))
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
        return constrain.markup(self.tokenizer, generation.end_ids(self.generation_config, self.tokenizer))


def _finish(output: Any) -> Finish:
    return "length" if output.finish_reason == "length" else "stop"
