"""Synthetic records, written through midalign.record: counts per item in, files out."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from midalign import record
from midalign.adapter import Manifest, RecipeRef
from midalign.data.overlap import OverlapCheck
from midalign.metrics.slot import COLUMNS, METRICS

ROLES = {"supervised": ["en", "es"], "aligned": ["de", "sw"], "unseen": ["fr"]}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def counts(tp: Sequence[int], pred: Sequence[int], gold: Sequence[int]) -> np.ndarray:
    """(items, COLUMNS) from slot counts; labels, values and
    spans match where slots do, nothing is outside."""
    tp, pred, gold = (np.asarray(column) for column in (tp, pred, gold))
    one = np.ones_like(tp)
    columns = {"slot_tp": tp, "slot_pred": pred, "slot_gold": gold, "ref_tp": tp, "ref_pred": pred}
    columns |= {"ref_gold": gold, "label_tp": tp, "value_tp": tp, "values_outside": 0 * one}
    columns |= {"loose_tp_pred": tp, "loose_tp_gold": tp, "with_slots": gold > 0}
    columns |= {"missed_items": (gold > 0) & (pred == 0), "false_alarm_items": (gold == 0) & (pred > 0)}
    columns |= {"exact": (tp == pred) & (tp == gold), "well_formed": one, "n": one, "verbatim_tp": tp}
    return np.stack([columns[name] for name in COLUMNS], axis=1).astype(np.int64)


def share(n: int, right: int) -> np.ndarray:
    """n items with one gold and one predicted slot each, the first `right` of them right: F1 = right / n."""
    return counts([1] * right + [0] * (n - right), [1] * n, [1] * n)


def simulated(rng: np.random.Generator, quality: float, difficulty: np.ndarray) -> np.ndarray:
    """Counts of a model: 0 to 3 gold slots an item, each found with a chance that falls with difficulty."""
    gold = (difficulty * 7919 % 1 * 4).astype(int)
    chance = np.clip(quality + 0.3 * (0.5 - difficulty), 0.02, 0.98)
    tp = rng.binomial(gold, chance)
    pred = tp + rng.binomial(np.maximum(gold - tp, 0), 0.7)
    return counts(tp, pred, gold)


def write(
    folder: Path,
    name: str,
    arm: str,
    by_language: Mapping[str, np.ndarray],
    *,
    seed: int | None = None,
    recipe: str | None = "mini",
    recipe_digest: str | None = None,
    recipe_baseline: str | None = None,
    base: str = "mini",
    group: str = "midalign_mini_slot",
    roles: Mapping[str, list[str]] = ROLES,
    engine: str = "hf",
    dtype: str = "float32",
    device: str = "cpu",
    batch_invariant: bool = False,
    limit: int | None = None,
    decoding: Mapping[str, str] | None = None,
    data: str = "data",
    prompt: str = "prompt",
    schema_version: int = 2,
    version: float = 1.0,
    signatures: Mapping[str, str] | None = None,
    max_gen_toks: int | None = None,
    cut_off: int | None = None,
    retrieval: Mapping[str, float] | None = None,
    layer: int = 3,
    base_retrieval: Mapping[str, float] | None = None,
    doc_ids: Mapping[str, Sequence[int]] | None = None,
    comet: Mapping[str, np.ndarray] | None = None,
    comet_model: str = "comet",
    repeated: Mapping[str, Sequence[int]] | None = None,
    training_dtype: str | None = None,
    settings: dict[str, object] | None = None,
    tokenizer: str | None = None,
    overlap: OverlapCheck | None = None,
) -> Path:
    """Write a record into `folder` and return its path; `comet` are scores in millionths by language."""
    tasks, items = {}, {}
    comet = comet or {}
    for language, table in by_language.items():
        pooled = table.sum(axis=0)
        n = len(table)
        task = f"{group}_{language}"
        ids = np.asarray(doc_ids[language] if doc_ids else range(n))
        items[task] = record.Items(
            ids, table, np.array((repeated or {}).get(language, []), np.int64), comet.get(language)
        )
        tasks[task] = record.TaskResult(
            language=language,
            family="slot",
            version=version,
            signatures=dict(signatures or {}),
            n=n,
            counts=dict(zip(COLUMNS, pooled.tolist(), strict=True)),
            metrics={
                metric: record.Metric(value=record.nan_to_none(float(rate(pooled))), stderr=0.01, n=n)
                for metric, rate in METRICS.items()
            },
            data_digest=sha(data + language),
            prompt_digest=sha(prompt + language),
            max_gen_toks=max_gen_toks,
            cut_off=cut_off,
            repeated=len(repeated.get(language, [])) if repeated is not None else None,
            without_repeated=record.scores_without_repeated(items[task], METRICS),
            comet=record.Comet(
                name=comet_model,
                digest=sha(comet_model),
                version="2.2.7",
                value=comet[language].mean() / 1e6,
                stderr=0.01,
                n=n,
            )
            if language in comet
            else None,
            seconds=1.0,
            tokens=100,
        )
    trained = arm != "base"
    reference = RecipeRef(
        name=recipe or "",
        digest=sha(recipe_digest or recipe or ""),
        baseline=sha(recipe_baseline) if recipe_baseline else None,
    )
    manifest = Manifest(
        name=name,
        arm=arm,
        seed=seed or 0,
        recipe=reference,
        base=base,
        base_digest=sha(base),
        task=group,
        supervised=roles["supervised"],
        aligned=roles["aligned"],
        layer=layer,
        pairs=None,
        updates=1,
        tokens=1,
        seconds=1.0,
        packages={},
        training={},
        dtype=training_dtype,
        settings=settings,
    )
    entry = record.Record(
        schema_version=schema_version,
        name=name,
        created=datetime(2026, 11, 23, tzinfo=UTC),
        arm=arm,
        seed=seed,
        recipe=reference if trained and recipe else None,
        base=record.Base(name=base, digest=sha(base), tokenizer=sha(tokenizer) if tokenizer else None),
        adapter=record.Adapter(name=name, digest=sha(name), manifest=manifest if training_dtype else None)
        if trained
        else None,
        roles=record.Roles(**roles),
        engine=record.Engine(name=engine, dtype=dtype, device=device, batch_invariant=batch_invariant),
        decoding=dict(decoding or {}),
        sample=record.Sample(split="test", limit=limit, seed=0),
        tasks=tasks,
        retrieval=record.Retrieval(
            layer=layer,
            candidates=100,
            pooling="mean",
            accuracy=retrieval,
            base_accuracy=base_retrieval or {},
        )
        if retrieval
        else None,
        packages={},
        seconds=1.0,
        tokens=100,
        overlap=overlap,
    )
    return record.write_record(entry, items, folder)
