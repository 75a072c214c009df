"""The Hugging Face engine: the base is loaded once, and adapters are switched.

It needs nothing beyond transformers, and answers on a CPU before vLLM has started. It is available in lm-eval
as `--model midalign-hf`.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm

from midalign import chat
from midalign.adapter import WEIGHTS, check_kind
from midalign.device import fast_dtype
from midalign.errors import EngineError
from midalign.evaluate import constrain, generation, tokenizers
from midalign.evaluate.decode import continue_greedily
from midalign.evaluate.live import refuse_partial, switch
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

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


def _check_attached(model: Any, folder: Path) -> None:
    """Raise AdapterError for an adapter of lm-eval's that acts in part or is of an unsupported kind."""
    for name, settings in model.peft_config.items():
        check_kind(folder, {**settings.to_dict(), "peft_type": settings.peft_type.value})
        if (folder / WEIGHTS).is_file():
            weights = {key: weight for key, weight in model.named_parameters() if name in key.split(".")}
            refuse_partial(model, folder, name, weights)


class MidalignHF(HFLM):
    """lm-eval's Hugging Face model with our greedy loop, in sorted batches."""

    items_at_once = 512
    """Items that one call should bring. Its batches are full then, and have prompts of similar length."""

    def __init__(
        self,
        pretrained: Any,
        dtype: str = "auto",
        constrained: bool = False,
        think_end_token: str | int | None = None,
        max_thinking_tokens: int = BUDGET,
        enable_thinking: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Load the base as HFLM does. `pretrained` may be a loaded model.

        `dtype` "auto" is bf16 if the device supports it.

        `constrained` restricts outputs to their tasks' grammars. Thoughts of up to `max_thinking_tokens` end
        with `think_end_token` and are removed.
        """
        self.thinking = Thinking.of(think_end_token, max_thinking_tokens, enable_thinking)
        adapter = kwargs.get("peft")
        if adapter and isinstance(pretrained, str) and Path(adapter).is_dir():
            tokenizers.check_tokenizer(Path(adapter), pretrained, chat=True)
        super().__init__(
            pretrained=pretrained,
            dtype=fast_dtype() if dtype == "auto" else dtype,
            think_end_token=think_end_token,
            enable_thinking=enable_thinking,
            **kwargs,
        )
        if self.backend != "causal":
            raise EngineError("midalign-hf runs decoders only. Score encoder-decoders with --model hf")
        if adapter:
            _check_attached(self.model, Path(adapter))
        self.contiguous_heads: set[torch.nn.Module] = set()
        self._make_head_contiguous()
        self.end_ids = generation.end_ids(self.model.generation_config, self.tokenizer)
        self.ignored = generation.neutralize(self.model)
        """Generation settings of the base that would change greedy answers."""
        self.constrained = constrained
        self.on_output: Callable[[int], None] | None = None
        """Called with the number of answers that have just been finished. None shows a bar of tqdm."""
        self.generated: dict[tuple[str, int], Generated] = {}
        """The answers of the last call, by task name and position."""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Render a conversation as training does, for templates without a system role too."""
        return chat.render(
            self.tokenizer,
            chat_history,
            add_generation_prompt=add_generation_prompt,
            **self.chat_template_args,
        )

    def get_model_info(self) -> dict[str, Any]:
        """Return the information of HFLM, and the ignored generation settings."""
        return {**super().get_model_info(), "generation_config_ignored": self.ignored}

    def use(self, adapter: str | None, also: Sequence[str] = ()) -> None:
        """Answer with the adapter of that name, or as the base. `also` has no effect: see InferenceEngine."""
        switch(self.model, adapter)
        self._make_head_contiguous()

    def _make_head_contiguous(self) -> None:
        """Give the output head, which an adapter may replace, contiguous copies of its inputs.

        The last positions of the rows are a strided slice, whose product takes torch hundreds of times as
        long (scripts/benchmarks/head_slice.py).
        """
        head = self.model.get_output_embeddings()
        if head not in self.contiguous_heads:
            head.register_forward_pre_hook(lambda _, args: (args[0].contiguous(),))
            self.contiguous_heads.add(head)

    def generate_until(self, requests: "list[Instance]", disable_tqdm: bool = False) -> list[str]:
        """Return answers in the order of the requests.

        Requests that are not greedy go to lm-eval's own loop.
        """
        # 1. Group the requests by their settings. One that is not greedy sends all to lm-eval's own loop.
        self.generated = {}
        groups: dict[Greedy, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            settings = greedy_settings(request.args[1], self.max_gen_toks)
            if settings is None:
                if self.constrained:
                    raise constrain.unconstrained_sampling_error()
                if self.thinking:
                    raise sampled_thoughts_error()
                return list(super().generate_until(requests, disable_tqdm=disable_tqdm))
            groups[settings].append(index)
        # 2. Answer each group in batches of similar length, the longest prompts first.
        answers: list[str] = [""] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm or self.on_output is not None) as bar:
            for settings, indices in groups.items():
                # HFLM's encoding has one BOS, whether the tokenizer or a chat template adds it.
                prompts = {i: self.tok_encode(requests[i].args[0]) for i in indices}
                indices.sort(key=lambda i: -len(prompts[i]))
                for start in range(0, len(indices), self._rows()):
                    batch = indices[start : start + self._rows()]
                    generated = self._answer(
                        [prompts[i] for i in batch], settings, [requests[i] for i in batch]
                    )
                    for i, answer in zip(batch, generated, strict=True):
                        answers[i] = answer.text
                        self.generated[requests[i].task_name, requests[i].doc_id] = answer
                        self.cache_hook.add_partial("generate_until", requests[i].args, answer.text)
                    bar.update(len(batch))
                    if self.on_output:
                        self.on_output(len(batch))
        done = [self.generated[request.task_name, request.doc_id] for request in requests]
        report_truncated([str(request.task_name) for request in requests], done, self.max_length)
        return answers

    def _rows(self) -> int:
        return int(self.batch_size) if str(self.batch_size).isdigit() else 64

    def _constraints(self, requests: "Sequence[Instance]", settings: Greedy) -> constrain.Constraints | None:
        if not self.constrained:
            return None
        return self.compiler.constraints(
            [
                constrain.output_grammar(
                    request.task_name, request.doc, settings.until, self.thinking is not None
                )
                for request in requests
            ]
        )

    def _answer(
        self, prompts: Sequence[list[int]], settings: Greedy, requests: "Sequence[Instance]"
    ) -> list[Generated]:
        """Return the answers of a batch, after thoughts if the model thinks."""
        # 1. Truncate prompts on the left, and let the model think.
        budget = self.thinking.budget if self.thinking else 0
        fitting = [prompt[-prompt_room(settings, self.max_length, budget) :] for prompt in prompts]
        thoughts = self._think(fitting)
        # 2. Answer after the thoughts. An output without thoughts is the answer, but not if it was to be
        # constrained: then the answer is generated from the prompt again.
        starts = {
            i: prompt + thought.ids if thought.ended else prompt
            for i, (prompt, thought) in enumerate(zip(fitting, thoughts, strict=True))
            if thought.ended or (thought.stopped and self.constrained)
        }
        rows = dict(
            zip(
                starts,
                self._continue(list(starts.values()), settings, [requests[i] for i in starts]),
                strict=True,
            )
        )
        # 3. Count the tokens of thoughts and answer.
        answers = []
        for i, (whole, prompt, thought) in enumerate(zip(prompts, fitting, thoughts, strict=True)):
            ids, finished = rows.get(i, ([], thought.stopped))
            at_once = thought.stopped and i not in rows
            text = self._text(thought.ids if at_once else ids, settings.until)
            finish: Finish = "stop" if finished else "length"
            tokens = len(thought.ids) + len(ids)
            answers.append(Generated(text, finish, len(prompt), tokens, len(prompt) < len(whole)))
        return answers

    def _text(self, ids: list[int], until: tuple[str, ...]) -> str:
        text = self.tok_decode(ids)
        return cut_at_stop(text.lstrip() if self.thinking else text, until)

    def _think(self, prompts: Sequence[list[int]]) -> list[Thoughts]:
        """Return the thoughts after each prompt.

        They are empty for models that do not think, and after prompts that end the thoughts themselves.
        """
        thinking = self.thinking
        thoughts = [Thoughts([], ended=True) for _ in prompts]
        if thinking is None:
            return thoughts
        open_ = [i for i, prompt in enumerate(prompts) if not thinking.is_closed(self.tokenizer, prompt)]
        rows = self._greedily(
            [prompts[i] for i in open_],
            thinking.budget,
            self._ends(()),
            lambda ids: thinking.is_over(self.tokenizer, ids),
        )
        for i, (ids, finished) in zip(open_, rows, strict=True):
            ended = thinking.is_over(self.tokenizer, ids)
            thoughts[i] = Thoughts(ids, ended, stopped=finished and not ended)
        return thoughts

    def _continue(
        self, prompts: Sequence[list[int]], settings: Greedy, requests: "Sequence[Instance]"
    ) -> list[tuple[list[int], bool]]:
        """Return the answer to each prompt, and whether it has ended."""
        ends, is_over = self._ends(settings.until), self._stop_test(settings.until)
        if self.thinking:
            ends, is_over = self._ends(()), self._stop_test_after_breaks(settings.until)
        return self._greedily(prompts, settings.max_new, ends, is_over, self._constraints(requests, settings))

    def _greedily(
        self,
        prompts: Sequence[list[int]],
        max_new: int,
        ends: Tensor,
        is_over: Callable[[list[int]], bool] | None,
        constraints: constrain.Constraints | None = None,
    ) -> list[tuple[list[int], bool]]:
        if not prompts:
            return []
        return continue_greedily(
            self.model,
            prompts,
            max_new=max_new,
            ends=ends,
            is_over=is_over,
            pad=self.tokenizer.pad_token_id,
            constraints=constraints,
        )

    def _ends(self, until: tuple[str, ...]) -> Tensor:
        """Return (vocabulary,) bool: end-of-sequence tokens, and tokens that contain a stop string."""
        cached: dict[tuple[str, ...], Tensor] = self.__dict__.setdefault("_ends_of", {})
        if until not in cached:
            size = self._vocabulary()
            texts = self.tokenizer.batch_decode([[i] for i in range(min(size, len(self.tokenizer)))])
            ends = torch.zeros(size, dtype=torch.bool)
            ends[[i for i, text in enumerate(texts) if any(stop in text for stop in until if stop)]] = True
            ends[list(self.end_ids)] = True
            cached[until] = ends.to(self.device)
        return cached[until]

    @cached_property
    def compiler(self) -> constrain.Compiler:
        """Compiler of the tasks' grammars for this model's vocabulary."""
        return constrain.Compiler(self.tokenizer, self._vocabulary(), self.end_ids)

    def _vocabulary(self) -> int:
        """Return the number of logits per token, which may exceed the entries of the tokenizer."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    def _stop_test(self, until: tuple[str, ...]) -> Callable[[list[int]], bool] | None:
        """Return a test for stop strings that may span tokens, or None if there are none."""
        longer = [stop for stop in until if len(stop) > 1]
        if not longer:
            return None
        tail = max(len(stop.encode()) for stop in longer)
        return lambda ids: any(stop in self.tok_decode(ids[-tail:]) for stop in longer)

    def _stop_test_after_breaks(self, until: tuple[str, ...]) -> Callable[[list[int]], bool]:
        """Return a test for stop strings in an answer, after the line breaks between thoughts and answer."""
        return lambda ids: any(stop in self.tok_decode(ids).lstrip() for stop in until if stop)
