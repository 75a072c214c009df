"""From a base, adapters and tasks to one record a model, through lm-eval."""

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from midalign import adapter as adapters
from midalign import bases, chat, guard, harness, locks, record
from midalign.adapter import TrainingText
from midalign.data.overlap import OverlapCheck, SplitText
from midalign.data.registry import parallel_sources
from midalign.errors import AdapterError, EngineError, RecordError, TaskError
from midalign.evaluate import constrain, generation, install, live, retrieval, shards, tokenizers
from midalign.evaluate.comet import scores as comet
from midalign.evaluate.partial import Output, Part, Store
from midalign.evaluate.thoughts import BUDGET, Thinking
from midalign.families import family
from midalign.files import write_atomically
from midalign.languages import language as known_language
from midalign.languages import languages, role_of, same_language
from midalign.metrics import scorer

log = logging.getLogger(__name__)

SEED = 0
BATCH = 64
LIMIT_MULTIPLE = 16
"""Limits of answers are multiples of this number of tokens."""
EngineName = Literal["auto", "vllm", "hf"]
Split = Literal["validation", "test"]


@dataclass(frozen=True)
class Settings:
    """What `midalign eval` is asked for."""

    base: str
    tasks: tuple[str, ...]
    output: Path
    adapters: tuple[Path, ...] = ()
    adapters_only: bool = False
    """Leave the base out: untrained it often answers to the limit, and takes longer than all its adapters."""
    engine: EngineName = "auto"
    split: Split = "test"
    limit: int | None = None
    supervised: tuple[str, ...] = ()
    aligned: tuple[str, ...] = ()
    note: str = ""
    log_samples: bool = False
    comet: str | None = None
    """A COMET model: checkpoint, folder or hub id."""
    num_fewshot: int = 0
    apply_chat_template: bool = False
    system_instruction: str | None = None
    think_end_token: str | None = None
    """The end of a reasoning model's thoughts, which are cut; None for models without."""
    max_thinking_tokens: int = BUDGET
    enable_thinking: bool | None = None
    """Value that is passed to the chat template; None leaves it to the template."""
    constrained: bool = False
    shard: tuple[int, int] | None = None
    """(I, N): the I-th of N parts of the items."""
    tensor_parallel: int = 1
    """GPUs that vLLM splits the model over."""

    @property
    def regime(self) -> str:
        """Of decoding. Scores of the two do not compare."""
        return "constrained" if self.constrained else "free"

    @property
    def keeps_outputs(self) -> bool:
        """Whether outputs are needed once they are scored."""
        return self.log_samples or self.comet is not None or self.shard is not None


@dataclass(frozen=True)
class Progress:
    """Where an evaluation stands: items answered of one model, and the task that has just been finished."""

    model: str
    done: int
    total: int
    finished: str | None = None
    headline: float | None = None
    cut_off: int = 0
    """Outputs of the finished task that reached the token limit."""


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Model:
    """One model to evaluate: the base, or an adapter on it."""

    name: str
    folder: Path | None
    digest: str | None
    manifest: adapters.Manifest | None

    @property
    def adapter(self) -> str | None:
        """The name under which the engine knows the adapter; None is the base."""
        return None if self.folder is None else self.name


def evaluate(settings: Settings, report: Report) -> list[Path]:
    """Evaluate the base, if asked for, and each adapter on it; returns the records' paths in this order.

    Finished languages are kept in `output/.partial` until all records are written. Raises MidalignError
    for unknown tasks or languages, adapters of another base or that do nothing, absent data or engines.
    """
    with _quiet():
        return _evaluate_all(settings, report)


def answer_ahead(settings: Settings, report: Report) -> None:
    """Put all languages of the adapters alone, or without adapters of the base, into `output/.partial`.

    For an evaluation of more models than these, which finds them there: it measures retrieval, at layers that
    depend on all its models, and writes the records. Several processes may do this at once for different
    models. Raises as `evaluate` does.
    """
    with _quiet():
        _evaluate_all(settings, report, ahead=True)


def _evaluate_all(settings: Settings, report: Report, ahead: bool = False) -> list[Path]:
    names = harness.expand(settings.tasks, settings.split)
    scored_by = None
    if settings.comet is not None:  # whatever is wrong there is said before hours of generation
        comet.directions(settings.tasks, warn=True)
        scored_by = comet.check(settings.comet)
    engine = _engine_name(settings.engine)
    base = bases.resolve(settings.base)
    _check_prompting(settings, base)
    models = _models(settings, base)
    engine = _engine_for(settings, engine, models)
    roles = _roles(settings, models, names)
    tasks = harness.load(names)
    _configure(tasks, settings)
    limit_answers(tasks, _tokenizer(base), context_tokens(base))
    runs = {model.name: _run_digest(settings, base, engine, model, tasks) for model in models}
    conditions = {
        model.name: _conditions(settings, engine, model, tasks, scored_by, runs[model.name])
        for model in models
    }
    for model in models:
        record.refuse_to_replace(_record_path(settings, model), conditions[model.name])

    def is_finished(model: Model) -> bool:
        return _is_finished(settings, model, runs[model.name], roles[model.name])

    wanted = [model for model in models if not is_finished(model)]
    samples = _samples(tasks, settings)
    tasks = {name: tasks[name] for name in samples}
    if settings.constrained:
        _prove_constraints_compile(tasks)
    # One shard measures retrieval, and of all languages: it takes few sentences of each.
    measured = names if settings.shard is None or settings.shard[0] == 1 else []
    if ahead:
        measured = []
        wanted = [model for model in wanted if model.folder is not None or not settings.adapters]
    with _locks(settings, wanted):
        for model in wanted:  # which another process may have written since
            record.refuse_to_replace(_record_path(settings, model), conditions[model.name])
        unfinished = [model for model in wanted if not is_finished(model)]
        unchecked = (
            []  # the evaluation that writes the records checks them
            if ahead
            else [model for model in models if model in unfinished or _lacks_overlap(settings, model)]
        )
        checks = _check_overlap(unchecked, base, names, settings.split)
        stores = {model.name: _store(settings, base, engine, model) for model in wanted}
        if unfinished:
            _generate(engine, base, unfinished, stores, tasks, samples, measured, settings, report)
        if ahead:
            return []
        parts = {model.name: _parts(model, stores[model.name], list(tasks), measured) for model in unfinished}
        if settings.comet is not None:
            _free_memory()
            _score_by_comet(parts, tasks, settings, report)
        for model in unfinished:
            own = parts[model.name]
            run, check = runs[model.name], checks[model.name]
            _publish(settings, engine, model, stores[model.name], own, tasks, roles, run, check)
        for store in stores.values():
            store.remove()
    for model in unchecked:
        if model not in unfinished:
            _add_overlap(_record_path(settings, model), checks[model.name])
    return [_record_path(settings, model) for model in models]


@contextmanager
def _locks(settings: Settings, models: Sequence[Model]) -> Iterator[None]:
    """Hold the locks of the models' records, taken in one order so that no two processes block each other."""
    with ExitStack() as held:
        for path in sorted(_record_path(settings, model) for model in models):
            held.enter_context(locks.locked(path))
        yield


def _store(settings: Settings, base: str, engine: str, model: Model) -> Store:
    """Return the model's finished parts, which belong to its record: another name has parts of its own."""
    decides = _decides(settings, base, engine, model)
    return Store(settings.output, {**decides, "record": _record_name(settings, model)})


def _generate(
    engine: str,
    base: str,
    models: Sequence[Model],
    stores: Mapping[str, Store],
    tasks: Mapping[str, Any],
    samples: Mapping[str, list[int] | None],
    measured: Sequence[str],
    settings: Settings,
    report: Report,
) -> None:
    """Put all parts that are missing into the stores, and retrieval for the languages of `measured`; nothing
    refers to the engine afterwards."""
    missing = {model.name: _missing(stores[model.name], tasks, settings) for model in models}
    if any(missing.values()) or not _retrieval_is_there(stores, measured):
        with _engine(engine, base, models, stores, measured, settings) as lm:
            for model in models:
                if missing[model.name]:
                    lm.use(model.adapter)
                    own, store = missing[model.name], stores[model.name]
                    _run(lm, model, tasks, samples, own, store, settings, report)


def _free_memory() -> None:
    """Give the device what a finished engine has left, for another process."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _engine_name(wanted: EngineName) -> str:
    """vLLM on CUDA where it is installed, else Hugging Face: on a CPU it answers before vLLM starts."""
    from midalign.device import device

    if wanted == "auto":
        return "vllm" if device() == "cuda" and install.has_vllm() else "hf"
    if wanted == "vllm":
        install.require_vllm()
    return wanted


def _engine_for(settings: Settings, engine: str, models: Sequence[Model]) -> str:
    """Return the engine, or Hugging Face in place of an unasked vLLM that would not serve all adapters live.

    Raises EngineError where vLLM was asked for.
    """
    from midalign.device import device

    if engine != "vllm" or device() == "cpu":  # there vLLM gets merged copies, proved equal
        return engine
    for model in models:
        problem = model.folder and adapters.beyond_plain_lora(model.folder)
        if problem and settings.engine == "auto":
            log.warning("%s has %s, which vLLM does not serve: the engine is hf", model.folder, problem)
            return "hf"
        if problem:
            raise EngineError(
                f"{model.folder} has {problem}, which vLLM does not serve: it takes plain LoRA of one rank. "
                f"Use the other engine: --engine hf"
            )
    return engine


def _check_prompting(settings: Settings, base: str) -> None:
    """Raise MidalignError, before anything is loaded, where the base cannot be prompted as asked."""
    Thinking.of(settings.think_end_token, settings.max_thinking_tokens, settings.enable_thinking)
    if settings.apply_chat_template:
        chat.require_template(_tokenizer(base), settings.base)
    elif settings.enable_thinking is not None:
        raise EngineError(
            "--enable-thinking and --no-enable-thinking are passed to the chat template: add "
            "--apply-chat-template"
        )


@cache
def _tokenizer(base: str) -> Any:
    return tokenizers.load(str(adapters.base_folder(base)))


def _prompting(settings: Settings, base: str) -> dict[str, Any]:
    """Return what else decides prompts and answers, by the names of the record; only what is not usual."""
    found: dict[str, Any] = {}
    if settings.think_end_token is not None:
        found["think_end_token"] = settings.think_end_token
        found["max_thinking_tokens"] = settings.max_thinking_tokens
    if settings.enable_thinking is not None:
        found["enable_thinking"] = settings.enable_thinking
    if settings.apply_chat_template and not chat.has_system_role(_tokenizer(base)):
        found["system_turn"] = chat.MERGED
    return found


def _models(settings: Settings, base: str) -> list[Model]:
    """Return the base, then the adapters, each checked against the base before anything is loaded."""
    if settings.adapters_only and not settings.adapters:
        raise AdapterError("There is no adapter to score without its base: --adapter FOLDER")
    models = [Model(record.record_file_name(_base_name(settings.base)), None, None, None)]
    for folder in settings.adapters:
        adapters.check(folder, base)
        tokenizers.check(folder, base, chat=settings.apply_chat_template)
        manifest = adapters.read_manifest(folder)
        name = record.record_file_name(manifest.name if manifest else folder.resolve().name)
        # Some file systems do not tell upper from lower case.
        clash = next((model for model in models if model.name.casefold() == name.casefold()), None)
        if clash:
            raise AdapterError(
                f"Two models would write {name}.json: {clash.folder or settings.base} and {folder}. Rename "
                f"one of the folders, or give each once"
            )
        models.append(Model(name, folder, adapters.digest(folder), manifest))
    return models[1:] if settings.adapters_only else models


def _conditions(
    settings: Settings,
    engine: str,
    model: Model,
    asked: Mapping[str, Any],
    scored_by: comet.Model | None,
    run: str,
) -> record.Conditions:
    """Return the conditions that the model's record will have, as far as they are known beforehand."""
    shared = record.shared_conditions(
        _record_base(settings),
        model.digest,
        _record_engine(engine),
        _record_sample(settings),
        _decoding(settings),
    )
    if settings.shard:
        shared[record.SHARDS] = run
    by_comet = f"{scored_by.digest} {scored_by.version}" if scored_by else None
    directions = set(comet.directions(settings.tasks)) if scored_by else set()
    tasks = {}
    for name, task in asked.items():
        metadata = harness.metadata(name)
        own = family(metadata["family"])
        tasks[name] = record.task_conditions(
            metadata["version"],
            own.data_digest(metadata, settings.split),
            own.signatures(metadata),
            _limit(task),
            by_comet if name in directions else None,
        )
    return record.Conditions(shared, tasks, bool(_source_and_languages(list(asked))[1]))


def _check_overlap(
    models: Sequence[Model], base: str, names: Sequence[str], split: Split
) -> dict[str, OverlapCheck | None]:
    """Return the overlap of the tasks with each model's training text, None for a base of unknown training.

    Warns of overlap, and of training text that is named but cannot be compared.
    """
    trained_base = adapters.read_manifest(adapters.base_folder(base))
    scored: list[SplitText] | None = None
    by_sources: dict[tuple[TrainingText, ...] | None, OverlapCheck] = {}
    checks: dict[str, OverlapCheck | None] = {}
    for model in models:
        manifests: list[adapters.Manifest | None] = [trained_base] if trained_base else []
        if model.folder is not None:
            manifests.append(model.manifest)
        if not manifests:
            checks[model.name] = None
            continue
        texts = [manifest.training_text if manifest else None for manifest in manifests]
        sources = None if None in texts else tuple(dict.fromkeys(t for known in texts for t in known or []))
        if sources not in by_sources:
            if scored is None and sources is not None:
                scored = guard.scored(names, split)
            by_sources[sources] = guard.check_overlap(sources, scored or [])
        check = checks[model.name] = by_sources[sources]
        if check.found:
            log.warning(
                "%s was trained on text of this evaluation:\n%s",
                model.name,
                guard.describe_overlaps(check.found),
            )
        if check.unchecked and sources is not None:
            log.warning("The overlap of %s was not checked: %s", model.name, "; ".join(check.unchecked))
    return checks


def _lacks_overlap(settings: Settings, model: Model) -> bool:
    """Return whether the model's record has no overlap check, or one that left text unchecked."""
    check = record.read_record(_record_path(settings, model)).overlap
    return check is None or bool(check.unchecked)


def _add_overlap(path: Path, check: OverlapCheck | None) -> None:
    """Put the overlap into a finished record, unless the record has a more complete check."""
    with locks.locked(path):
        entry = record.read_record(path)
        before = entry.overlap
        if check is not None and (before is None or len(check.unchecked) < len(before.unchecked)):
            updated = entry.model_copy(update={"overlap": check})
            record.write_record(updated, record.read_items(path), path.parent)


def _record_base(settings: Settings) -> record.Base:
    base = bases.resolve(settings.base)
    return record.Base(
        name=_base_name(settings.base),
        digest=adapters.base_digest(base),
        tokenizer=adapters.tokenizer_digest(base),
        note=settings.note,
    )


def _record_engine(engine: str) -> record.Engine:
    from midalign.device import device

    return record.Engine(name=engine, dtype=_dtype(), device=device())


def _record_sample(settings: Settings) -> record.Sample:
    return record.Sample(split=settings.split, limit=settings.limit, seed=SEED)


def _decoding(settings: Settings) -> dict[str, Any]:
    """Return how outputs are prompted and decoded, apart from the tasks' own generation settings.

    Unusual keys are present where they act.
    """
    base = bases.resolve(settings.base)
    ignored = generation.acting(generation.of_base(base))
    return {
        "regime": settings.regime,
        "num_fewshot": settings.num_fewshot,
        "apply_chat_template": settings.apply_chat_template,
        "system_instruction": settings.system_instruction,
        **_prompting(settings, base),
        **({"generation_config_ignored": ignored} if ignored else {}),
    }


def _is_finished(settings: Settings, model: Model, run: str, roles: record.Roles) -> bool:
    """Return whether an up-to-date record exists. The base takes its roles from any adapter."""
    path = _record_path(settings, model)
    if settings.log_samples or not path.is_file():
        return False
    entry = record.read_record(path)
    any_roles = model.folder is None and bool(settings.adapters)
    manifest = entry.adapter.manifest if entry.adapter else None
    said = (entry.packages, entry.base.note, manifest, any_roles or entry.roles)
    now = (adapters.package_versions(), settings.note, model.manifest, any_roles or roles)
    return entry.run == run and said == now and _has_items(path)


def _has_items(path: Path) -> bool:
    """Return whether the record's counts per item are there as they were written."""
    try:
        record.read_items(path)
    except RecordError:
        return False
    return True


def _record_path(settings: Settings, model: Model) -> Path:
    return settings.output / f"{_record_name(settings, model)}{record.SUFFIX}"


def _record_name(settings: Settings, model: Model) -> str:
    """The two regimes' records of one model may lie in one folder, and so may all its shards."""
    name = f"{model.name}-constrained" if settings.constrained else model.name
    return f"{name}.shard-{settings.shard[0]}-of-{settings.shard[1]}" if settings.shard else name


def _roles(settings: Settings, models: Sequence[Model], names: Sequence[str]) -> dict[str, record.Roles]:
    """Roles by model: its manifest's, else those given by hand; the base takes the roles of the adapters."""
    for code in (*settings.supervised, *settings.aligned):
        known_language(code)
    evaluated = {code for name in names for code in harness.task_languages(name)}
    sides = {}
    for model in models:
        if model.manifest:
            sides[model.name] = set(model.manifest.supervised), set(model.manifest.aligned)
            _warn_of_ignored_roles(settings, model.name, *sides[model.name])
        else:
            sides[model.name] = set(settings.supervised), set(settings.aligned)
    base = next((model.name for model in models if model.folder is None), None)
    if base is not None and len(models) > 1:
        own = [side for name, side in sides.items() if name != base]
        supervised = set().union(*(side[0] for side in own))
        sides[base] = supervised, set().union(*(side[1] for side in own)) - supervised
    return {
        name: record.Roles(
            supervised=_in_order(supervised),
            aligned=_in_order(aligned - supervised),
            unseen=_in_order({code for code in evaluated if role_of(code, supervised, aligned) == "unseen"}),
        )
        for name, (supervised, aligned) in sides.items()
    }


def _warn_of_ignored_roles(settings: Settings, name: str, supervised: set[str], aligned: set[str]) -> None:
    """Say where roles that were given by hand differ from a manifest's, which count."""
    for option, given, known in (
        ("--supervised", settings.supervised, supervised),
        ("--aligned", settings.aligned, aligned),
    ):
        if given and set(map(same_language, given)) != set(map(same_language, known)):
            log.warning(
                "%s %s is ignored for %s: its %s says %s",
                *(option, ",".join(given), name, adapters.MANIFEST, ",".join(_in_order(known)) or "none"),
            )


def _in_order(codes: set[str]) -> list[str]:
    return [code for code in languages() if code in codes]


def _decides(settings: Settings, base: str, engine: str, model: Model) -> dict[str, Any]:
    """Return all that decides what a model's tasks give, apart from the tasks themselves."""
    pooling = retrieval.pooling(_tokenizer(base), adapters.base_config(base).get_text_config())
    return {
        "base": adapters.base_digest(base),
        "tokenizer": adapters.tokenizer_digest(base),
        "adapter": model.digest,
        "engine": engine,
        "dtype": _dtype(),
        "split": settings.split,
        "limit": settings.limit,
        "shard": settings.shard,
        "seed": SEED,
        "regime": settings.regime,
        "prompt": [settings.num_fewshot, settings.apply_chat_template, settings.system_instruction],
        "packages": adapters.package_versions(),
        **_prompting(settings, base),
        **({"shots": "of other texts"} if settings.num_fewshot else {}),
        **({"pooling": pooling} if pooling != retrieval.POOLING else {}),
    }


def _dtype() -> str:
    from midalign.device import fast_dtype

    return fast_dtype()


def _configure(tasks: Mapping[str, Any], settings: Settings) -> None:
    """What lm_eval.simple_evaluate sets on tasks before it calls `evaluate`, and the split."""
    for name, task in tasks.items():
        shots = len(task.sampler.df)
        if settings.num_fewshot > shots:
            raise TaskError(
                f"{name} has {shots} few-shot examples here, {settings.num_fewshot} are wanted. "
                f"Those of translation are ALMA's, where it has the direction: midalign data add alma PATH"
            )
        task.set_config(key="test_split", value=settings.split)
        task.fewshot_cfg.split = settings.split  # no item sees its own text among the examples
        task.set_config(key="num_fewshot", value=settings.num_fewshot)
        task.set_fewshot_seed(seed=1234)


def limit_answers(tasks: Mapping[str, Any], tokenizer: Any, context: int | None) -> None:
    """Limit answers to what the longest gold answer needs in the base's own tokens, and a quarter.

    A base of `context` tokens, None where its configuration does not say, keeps half of them for the prompt.
    The limits of the task files are in bytes, which fits every tokenizer. With a tokenizer at hand, prompts
    get the rest of the context, and a base that never ends its answers takes less time.
    """
    for task in tasks.values():
        limit = answer_limit(list(task.eval_docs["target"]), tokenizer, context)
        generation = {**task.config.generation_kwargs, "max_gen_toks": limit}
        task.set_config(key="generation_kwargs", value=generation)


def answer_limit(targets: Sequence[str], tokenizer: Any, context: int | None) -> int:
    """Return the tokens of the longest gold answer and a quarter, at most half the context."""
    longest = max(map(len, tokenizer(targets, add_special_tokens=False)["input_ids"]))
    limit = -(-(longest + longest // 4 + 1) // LIMIT_MULTIPLE) * LIMIT_MULTIPLE
    return limit if context is None else min(limit, context // 2)


@cache
def context_tokens(base: str) -> int | None:
    """Return the context of a base in tokens, None where its configuration does not say."""
    return getattr(adapters.base_config(base).get_text_config(), "max_position_embeddings", None)


def _limit(task: Any) -> int:
    """Return the most tokens of an answer."""
    return int(task.config.generation_kwargs["max_gen_toks"])


def _prove_constraints_compile(tasks: Mapping[str, Any]) -> None:
    """Raise TaskError before any model is loaded where a task has no constraint, or one that is wrong."""
    for name, task in tasks.items():
        constrain.grammar(name, task.eval_docs[0], task.config.generation_kwargs["until"])


def _missing(store: Store, tasks: Mapping[str, Any], settings: Settings) -> list[str]:
    """Return the tasks without a finished part that is still valid."""
    missing = []
    for name, task in tasks.items():
        part = store.read(name, Part)
        stale = part is None or part.rendering != _rendering(name, task)
        if stale or (settings.keeps_outputs and part is not None and part.outputs is None):
            missing.append(name)
    return missing


def _rendering(name: str, task: Any) -> str:
    """Return the digest of what a task asks, how, of whom, and how the answers are scored."""
    metadata = harness.metadata(name)
    keys = ("description", "doc_to_text", "doc_to_target", "target_delimiter", "generation_kwargs")
    asked = {key: str(task.config[key]) for key in keys}
    own = family(metadata["family"])
    scored = [metadata["version"], own.data_digest(metadata, task.config.test_split)]
    if signatures := own.signatures(metadata):
        scored.append(signatures)
    return hashlib.sha256(json.dumps([asked, *scored], sort_keys=True).encode()).hexdigest()


@contextmanager
def _engine(
    engine: str,
    base: str,
    models: Sequence[Model],
    stores: Mapping[str, Store],
    names: Sequence[str],
    settings: Settings,
) -> Iterator[Any]:
    """An lm-eval model that answers as each of `models`, after the proof that each adapter acts.

    Pair retrieval is measured on the way, while the base and its adapters are in memory.
    """
    folders = {model.name: model.folder for model in models if model.folder is not None}
    # fp32 for the proof; without adapters there is nothing to prove.
    model, tokenizer = live.load(base, folders, "float32" if folders else _dtype())
    live.prove_each_acts(model, tokenizer, folders)
    logits = {}
    if engine == "vllm" and model.device.type == "cpu":
        for name, adapter in folders.items():
            live.switch(model, name)
            logits[name] = live.probe_logits(model, tokenizer, adapter)
    live.cast(model, _dtype())
    _measure_retrieval(model, tokenizer, models, stores, names, settings)
    answering: dict[str, Any] = {
        "constrained": settings.constrained,
        "think_end_token": settings.think_end_token,
        "max_thinking_tokens": settings.max_thinking_tokens,
        "enable_thinking": settings.enable_thinking,
    }
    if engine == "hf":
        from midalign.evaluate.hf import MidalignHF

        yield MidalignHF(pretrained=model, tokenizer=tokenizer, batch_size=BATCH, **answering)
        return
    on_cpu = model.device.type == "cpu"
    del model
    _free_memory()
    with tempfile.TemporaryDirectory(prefix="midalign-merged-") as folder:
        from midalign.evaluate.merge import merged_copies
        from midalign.evaluate.vllm import MidalignVLLM

        if on_cpu:
            copies = merged_copies(base, folders, logits, Path(folder))
            yield MidalignVLLM(base, merged=copies, dtype=_dtype(), **answering)
        else:
            yield MidalignVLLM(
                base,
                adapters=folders,
                dtype=_dtype(),
                tensor_parallel_size=settings.tensor_parallel,
                **answering,
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence lm-eval's warnings about task metadata and in-memory models.

    Every task of midalign triggers them.
    """
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _source_and_languages(names: Sequence[str]) -> tuple[str, list[str]]:
    """Where pairs come from, the first task's data, and for which languages."""
    if not names:
        return "", []
    source = str(harness.metadata(names[0])["source"])
    if source not in parallel_sources():
        return source, []
    same = (name for name in names if harness.metadata(name)["source"] == source)
    wanted = {code for name in same for code in harness.task_languages(name)} - {retrieval.PIVOT}
    return source, _in_order(wanted)


def _retrieval_is_there(stores: Mapping[str, Store], names: Sequence[str]) -> bool:
    _, wanted = _source_and_languages(names)
    parts = [store.read("retrieval", record.Retrieval) for store in stores.values()]
    return not wanted or all(part is not None and list(part.accuracy) == wanted for part in parts)


def _measure_retrieval(
    model: Any,
    tokenizer: Any,
    models: Sequence[Model],
    stores: Mapping[str, Store],
    names: Sequence[str],
    settings: Settings,
) -> None:
    """Measure retrieval of the base and of each adapter at the aligned layer, on the same candidates."""
    from midalign.align.trunk import depth, layer_index

    if _retrieval_is_there(stores, names):
        return
    source, wanted = _source_and_languages(names)
    pairs = retrieval.held_out(source, wanted, settings.split)
    own = {one.name: one.manifest.layer if one.manifest else None for one in models}
    manifests = map(adapters.read_manifest, settings.adapters)  # of those that are finished too
    aligned = {manifest.layer for manifest in manifests if manifest and manifest.layer is not None}
    # Models that were not aligned are read where the aligned ones of this run were.
    usual = aligned.pop() if len(aligned) == 1 else layer_index("middle", depth(model))
    before: dict[int, dict[str, float]] = {}
    base_bits = retrieval.bits_per_character(model, tokenizer, None, pairs)
    for one in models:
        layer = own[one.name] or usual
        if layer not in before:
            before[layer] = retrieval.measure(model, tokenizer, None, pairs, layer)
        after = (
            before[layer]
            if one.adapter is None
            else retrieval.measure(model, tokenizer, one.adapter, pairs, layer)
        )
        stores[one.name].write(
            "retrieval",
            record.Retrieval(
                layer=layer,
                candidates=min(len(chosen.ids) for chosen in pairs.values()),
                candidates_digest=retrieval.digest(pairs),
                pooling=retrieval.pooling(tokenizer, model.config.get_text_config()),
                accuracy=after,
                base_accuracy=before[layer],
                bits_per_character=base_bits
                if one.adapter is None
                else retrieval.bits_per_character(model, tokenizer, one.adapter, pairs),
                base_bits_per_character=base_bits,
            ),
        )


def _run(
    lm: Any,
    model: Model,
    tasks: Mapping[str, Any],
    samples: Mapping[str, list[int] | None],
    missing: Sequence[str],
    store: Store,
    settings: Settings,
    report: Report,
) -> None:
    """Answer and score the missing tasks of one model, keeping those of a call as soon as it is finished."""
    sizes = {name: len(samples[name] or tasks[name].eval_docs) for name in tasks}
    state = Progress(
        model.name, sum(sizes[name] for name in tasks if name not in missing), sum(sizes.values())
    )
    report(state)

    def on_output(count: int) -> None:
        nonlocal state
        state = replace(state, done=state.done + count, finished=None, headline=None, cut_off=0)
        report(state)

    lm.on_output = on_output
    for group in groups({name: sizes[name] for name in missing}, lm.items_at_once):
        parts = _ask(lm, {name: tasks[name] for name in group}, samples, settings)
        for name, part in parts.items():
            store.write(name, part)
            headline = next(iter(part.result.metrics.values())).value
            cut_off = part.result.cut_off or 0
            report(replace(state, finished=name, headline=headline, cut_off=cut_off))


def groups(sizes: Mapping[str, int], at_once: int) -> list[list[str]]:
    """Group consecutive tasks with at most `at_once` items together. A larger task is alone."""
    found: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not found or size > room:
            found.append([])
            room = at_once
        found[-1].append(name)
        room -= size
    return found


def _samples(tasks: Mapping[str, Any], settings: Settings) -> dict[str, list[int] | None]:
    """The items to answer by task, None for all; a shard lacks the tasks of which it has none."""
    samples = {name: sample(len(task.eval_docs), settings.limit) for name, task in tasks.items()}
    if settings.shard is None:
        return samples
    positions = {name: one or range(len(tasks[name].eval_docs)) for name, one in samples.items()}
    own = shards.share(positions, *settings.shard)
    if not own:
        total = sum(map(len, positions.values()))
        raise TaskError(f"{settings.shard[1]} shards of {total} items leave some empty; take fewer shards")
    return dict(own)


def _run_digest(settings: Settings, base: str, engine: str, model: Model, tasks: Mapping[str, Any]) -> str:
    """Return the digest of what determines the outcome of the whole run, of which this may be a shard.

    Package versions do not count.
    """
    decides = _decides(replace(settings, shard=None), base, engine, model)
    del decides["packages"]  # the record has them
    asked = {name: _rendering(name, task) for name, task in tasks.items()}
    text = json.dumps([decides, asked, settings.comet], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def sample(size: int, limit: int | None, seed: int = SEED) -> list[int] | None:
    """Return sorted positions of a seeded sample, the same for every task of equal size; None is all of them.

    A smaller limit gives a part of a larger one's sample.
    """
    if limit is None or limit >= size:
        return None
    return sorted(int(i) for i in np.random.default_rng(seed).permutation(size)[:limit])


def _ask(
    lm: Any, tasks: Mapping[str, Any], samples: Mapping[str, list[int] | None], settings: Settings
) -> dict[str, Part]:
    """One call of lm-eval; its own bootstrap is off, since the tasks' metrics bring theirs."""
    from lm_eval import evaluate as lm_evaluate

    start = time.monotonic()
    results = lm_evaluate(
        lm,
        dict(tasks),
        samples={name: samples[name] for name in tasks},
        bootstrap_iters=0,
        log_samples=True,
        system_instruction=settings.system_instruction,
        apply_chat_template=settings.apply_chat_template,
        fewshot_as_multiturn=settings.apply_chat_template,
    )
    seconds = time.monotonic() - start
    total = sum(_tokens(lm, name) for name in tasks) or 1
    return {
        name: _part(lm, name, task, results, seconds * _tokens(lm, name) / total, settings)
        for name, task in tasks.items()
    }


def _tokens(lm: Any, name: str) -> int:
    return sum(
        one.prompt_tokens + one.output_tokens for (task, _), one in lm.generated.items() if task == name
    )


def _part(lm: Any, name: str, task: Any, results: Any, seconds: float, settings: Settings) -> Part:
    metadata = harness.metadata(name)
    logged = results["samples"][name]
    scores = results["results"][name]
    tasks, scored = family(metadata["family"]), scorer(metadata["family"])
    counts = np.array([one[scored.HEADLINE].counts for one in logged], np.int64)
    prompts = [str(one["arguments"][0][0]) for one in logged]
    doc_ids = [one["doc_id"] for one in logged]
    repeated = sorted(set(guard.repeated_items(name, settings.split)) & set(doc_ids))
    generated = [lm.generated[name, position] for position in range(len(logged))]
    result = record.TaskResult(
        language=metadata["language"],
        family=metadata["family"],
        version=metadata["version"],
        n=len(logged),
        counts={column: int(total) for column, total in zip(scored.COLUMNS, counts.sum(0), strict=True)},
        metrics={
            metric: record.Metric(
                value=_defined(scores[f"{metric},none"]),
                stderr=_defined(scores[f"{metric}_stderr,none"]),
                n=len(logged),
            )
            for metric in tasks.metrics(metadata)
        },
        signatures=tasks.signatures(metadata),
        data_digest=tasks.data_digest(metadata, settings.split),
        prompt_digest=shards.prompt_digest(prompts),
        repeated=len(repeated),
        without_repeated=record.scores_without_repeated(
            record.Items(np.array(doc_ids), counts, np.array(repeated)), tasks.metrics(metadata)
        ),
        max_gen_toks=_limit(task),
        cut_off=sum(one.finish == "length" for one in generated),
        prompts_cut=sum(one.prompt_cut for one in generated),
        seconds=round(seconds, 3),
        tokens=_tokens(lm, name),
    )
    outputs = [
        Output(doc_id=one["doc_id"], prompt=prompt, output=str(one["filtered_resps"][0]), finish=own.finish)
        for one, prompt, own in zip(logged, prompts, generated, strict=True)
    ]
    return Part(
        rendering=_rendering(name, task),
        result=result,
        doc_ids=doc_ids,
        counts=counts.tolist(),
        repeated=repeated,
        outputs=outputs if settings.keeps_outputs else None,
    )


def _defined(value: Any) -> float | None:
    """Return a score as a record has it; None for NaN, and for N/A, which our plug-in puts in its place."""
    return record.nan_to_none(value) if isinstance(value, float) else None


def _parts(model: Model, store: Store, names: Sequence[str], measured: Sequence[str]) -> dict[str, Part]:
    """Return all finished parts of a model; raises TaskError where one of them is missing."""
    parts = {name: store.read(name, Part) for name in names}
    missing = [name for name, part in parts.items() if part is None]
    if _source_and_languages(measured)[1] and store.read("retrieval", record.Retrieval) is None:
        missing.append("retrieval")
    if missing:
        raise TaskError(
            f"{missing[0]} of {model.name} vanished from {store.folder}; run the same command again"
        )
    return {name: part for name, part in parts.items() if part is not None}


def _score_by_comet(
    parts: Mapping[str, dict[str, Part]], tasks: Mapping[str, Any], settings: Settings, report: Report
) -> None:
    """Add COMET's scores to the parts of all models, in one process: what two models answer alike is scored
    once."""
    assert settings.comet is not None
    segments = {}
    for name in (name for name in comet.directions(settings.tasks) if name in tasks):
        docs = tasks[name].eval_docs
        for model, own in parts.items():
            outputs = own[name].outputs or []
            segments[model, name] = [comet.segment(docs[one.doc_id], one.output) for one in outputs]
    scored_by, scores = comet.score(
        settings.comet,
        [segment for some in segments.values() for segment in some],
        lambda done, total: report(Progress(f"COMET {settings.comet}", done, total)),
    )
    rest = iter(scores)
    for (model, name), some in segments.items():
        own_scores = list(islice(rest, len(some)))
        part = parts[model][name]
        part.result = part.result.model_copy(update={"comet": comet.pooled(scored_by, own_scores)})
        part.comet = own_scores


def _publish(
    settings: Settings,
    engine: str,
    model: Model,
    store: Store,
    parts: Mapping[str, Part],
    tasks: Mapping[str, Any],
    roles: Mapping[str, record.Roles],
    run: str,
    check: OverlapCheck | None,
) -> None:
    """Write a model's record out of its finished parts."""
    results = {name: part.result for name, part in parts.items()}
    manifest = model.manifest
    file = _record_name(settings, model)
    entry = record.Record(
        name=file,
        created=datetime.now(UTC),
        arm="base" if model.folder is None else manifest.arm if manifest else "adapter",
        seed=manifest.seed if manifest else None,
        recipe=manifest.recipe if manifest else None,
        base=_record_base(settings),
        adapter=record.Adapter(name=model.name, digest=model.digest, manifest=manifest)
        if model.digest
        else None,
        roles=roles[model.name],
        engine=_record_engine(engine),
        decoding={
            **_decoding(settings),
            "generation": shards.in_common([tasks[name].config.generation_kwargs for name in parts]),
        },
        sample=_record_sample(settings),
        tasks=results,
        retrieval=store.read("retrieval", record.Retrieval),
        packages=adapters.package_versions(),
        seconds=round(sum(result.seconds for result in results.values()), 3),
        tokens=sum(result.tokens for result in results.values()),
        overlap=check,
        run=run,
        shard=record.Shard(number=settings.shard[0], of=settings.shard[1], run=run)
        if settings.shard
        else None,
    )
    items = {
        name: record.Items(
            np.array(part.doc_ids, np.int64),
            np.array(part.counts, np.int64),
            np.array(part.repeated, np.int64),
            None if part.comet is None else np.array(part.comet, np.int64),
            [one.prompt for one in part.outputs or []] if settings.shard else None,
        )
        for name, part in parts.items()
    }
    record.write_record(entry, items, settings.output)
    if settings.log_samples:
        lines = (
            json.dumps({"task": name, **output.model_dump()}, ensure_ascii=False) + "\n"
            for name, part in parts.items()
            for output in part.outputs or []
        )
        write_atomically(settings.output / f"{file}.outputs.jsonl", "".join(lines).encode())


def _base_name(base: str) -> str:
    """Return the last part of a folder: records are published, and paths belong to this machine."""
    return Path(base).resolve().name if Path(base).is_dir() else base
