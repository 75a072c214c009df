"""Figures as Markdown: a board of sections, each with its result in words, its rows, its languages."""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from midalign import bases, harness
from midalign.errors import TaskError
from midalign.languages import ROLES
from midalign.leaderboard.compare import DRAWS, Comet, Difference, Estimate, Model, language_sets
from midalign.leaderboard.sections import Section, name_of, resource_of

MARK = "<!-- written by midalign leaderboard build -->"
NONE = "–"
MINUS = "−"

METRIC_NAMES = {
    "slot_f1": "slot F1",
    "slot_f1_verbatim": "slot F1, verbatim",
    "slot_f1_reference": "slot F1, published procedure",
    "strict_f1": "strict span F1",
    "loose_f1": "loose span F1",
    "label_f1": "label F1",
    "value_f1": "value F1",
    "values_not_in_utterance": "values not in the utterance",
    "exact_match": "exact match",
    "well_formed": "well-formed outputs",
    "chrf": "chrF++",
    "bleu": "BLEU",
    "off_target": "off-target outputs, of those whose language can be told",
    "unidentified": "outputs whose language cannot be told",
    "copied": "outputs that repeat the source",
    "empty": "empty outputs",
    "length_ratio": "length, of the reference's",
    "span_f1": "span F1",
    "span_f1_parsed": "span F1 of the outputs that parse",
    "span_f1_seqeval": "span F1, by tags",
    "parses": "outputs that parse",
    "complies": "outputs that comply with the schema",
    "values_in_source": "values that stand in the source",
    "intent_accuracy": "intent accuracy",
}

_DIFFERENCE_METRICS = {
    "slot": ("slot_f1", "label_f1", "value_f1", "values_not_in_utterance", "slot_f1_reference"),
    "slot_spans": ("slot_f1", "strict_f1", "loose_f1", "label_f1", "value_f1", "values_not_in_utterance"),
    "translation": ("chrf", "bleu", "off_target", "copied", "length_ratio"),
    "structured": (
        "span_f1",
        "span_f1_seqeval",
        "span_f1_parsed",
        "exact_match",
        "intent_accuracy",
        "complies",
        "values_in_source",
    ),
}
"""What the table of differences shows, by family, where the task has it."""

_DETAILS = {
    "slot": ("Labels, values and copying", ("label_f1", "value_f1", "values_not_in_utterance")),
    "slot_spans": ("Spans, labels and copying", ("strict_f1", "loose_f1", "label_f1", "value_f1")),
    "translation": ("Ways to fail", ("off_target", "unidentified", "copied", "empty")),
    "structured": ("Form and copying", ("parses", "complies", "values_in_source")),
}
"""Title and metrics of the last table, by family."""

_PREFACE = f"""\
Scores in per cent. A language's score is pooled over its items (micro), a mean is over languages (macro).
A dash is a figure without a case, such as the share of right values where a model predicted none; means leave
it out.
Intervals in brackets are 95% bootstrap intervals over items ({DRAWS:,} draws of document ids, the same for
both models of a difference and for all languages); they leave out the choice of training seed. Where a row
has several seeds, its figures are their mean, with the least and greatest seed in parentheses.

- **supervised, aligned, unseen**: languages with training labels; with parallel sentences only; with neither.
- **high, mid, low**: resource class of a language (Joshi et al. 2020: 4-5, 3, 0-2), whatever its role.
- **gap**: transfer gap, mean over supervised languages minus the language's own score, same model.
  Translation has none: scores of two target languages cannot be compared, only an arm with its baseline.
- **gap closed**: (model − baseline) / baseline's gap, on the aligned languages; not reported where the
  interval of the baseline's gap holds 0.
- **retrieval**: share of test sentences whose nearest candidate is their English translation, by states after
  the named layer, before training (base) → after, mean over the aligned languages.
- **cut off**: share of outputs that reached the token limit of an answer, over all languages and seeds.
"""


@dataclass(frozen=True)
class Part:
    """A section with its figures and the name of its plot."""

    slug: str
    section: Section
    models: list[Model]
    differences: list[Difference]
    comet: Comet | None = None

    @property
    def plot(self) -> str:
        """The plot's path below the output folder."""
        return f"plots/{self.slug}.png"


def page(parts: Sequence[Part]) -> str:
    """The whole README.md."""
    return (
        "\n".join([MARK, "# Leaderboard", "", _PREFACE, *(_section(part) for part in parts)]).rstrip() + "\n"
    )


def title(section: Section) -> str:
    """Task group, base and sample."""
    entry = section.first.record
    return f"{section.group}, {entry.base.name}, {sample_name(section)}"


def sample_name(section: Section) -> str:
    """`full test split` or `sample of 100 of the test split (seed 0)`, and the regime unless it is free."""
    sample = section.first.record.sample
    regime = "" if section.regime == "free" else f", {section.regime} decoding"
    if sample.limit is None:
        return f"full {sample.split} split{regime}"
    return f"sample of {sample.limit} of the {sample.split} split (seed {sample.seed}){regime}"


def items_span(section: Section) -> str:
    """Items a language: `300` or, where languages differ, `150–300`."""
    return _span({section.first.task(code).n for code in section.languages})


def _span(numbers: Collection[int]) -> str:
    """Return the least and the greatest number, or the one that all are."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def items_name(section: Section) -> str:
    """`items_span`, and whether they are a sample: `100 (sample)`."""
    return items_span(section) + ("" if section.first.record.sample.limit is None else " (sample)")


def percent(share: float) -> str:
    """One decimal, no sign of minus zero."""
    return _signed(share, plus="")


def signed(share: float) -> str:
    """One decimal with its sign."""
    return _signed(share, plus="+")


def _signed(share: float, plus: str) -> str:
    if math.isnan(share):
        return NONE
    text = f"{abs(100 * share):.1f}"
    if text == "0.0":
        return text
    return f"{MINUS if share < 0 else plus}{text}"


def interval(estimate: Estimate) -> str:
    """`+3.1 [1.2, 5.0]`, a dash where there is no case."""
    if math.isnan(estimate.value):
        return NONE
    return f"{signed(estimate.value)} [{percent(estimate.low)}, {percent(estimate.high)}]"


def seeded(model: Model, name: str) -> str:
    """A mean of the headline, with least and greatest seed in parentheses where there are several."""
    if name not in model.spread:
        return NONE
    mean = percent(next(iter(model.means.values()))[name].value)
    if len(model.seeds) == 1 or mean == NONE:
        return mean
    low, high = model.spread[name]
    return f"{mean} ({percent(low)}–{percent(high)})"


def retrieval_layers(models: Sequence[Model]) -> list[int]:
    """Return the layers after which any model's retrieval was measured, lowest first."""
    return sorted({measured.layer for model in models for measured in model.retrieval})


def retrieval_columns(models: Sequence[Model]) -> dict[str, int]:
    """Return layer by column of retrieval. Each layer has its own, since figures of two do not compare."""
    layers = retrieval_layers(models)
    return {"retrieval" if len(layers) == 1 else f"retrieval, layer {layer}": layer for layer in layers}


def retrieval(section: Section, model: Model, layer: int) -> str:
    """Return `29 → 64` over the aligned languages (all measured ones where none is aligned), in per cent.

    Several figures where seeds were measured on several sets of candidates, a dash where the model was not
    measured after this layer.
    """
    figures = []
    for measured in model.retrieval:
        if measured.layer != layer:
            continue
        codes = list(measured.after)
        codes = [code for code in codes if section.role(code) == "aligned"] or codes
        after = _whole(measured.after, codes)
        alone = model.arm == "base" or not measured.before
        figures.append(after if alone else f"{_whole(measured.before, codes)} → {after}")
    return ", ".join(figures) or NONE


def cut_off(section: Section, model: Model) -> str:
    """Return the share of outputs that reached the token limit, a dash where it is not known."""
    if model.cut_off is None:
        return NONE
    items = sum(section.first.task(code).n for code in section.languages)
    return percent(model.cut_off / (items * len(model.seeds)))


def _whole(accuracy: dict[str, float], codes: Sequence[str]) -> str:
    known = [accuracy[code] for code in codes if code in accuracy]
    return f"{100 * sum(known) / len(known):.0f}" if known else NONE


def closed(part: Part, model: Model) -> str:
    """The gap that the model closed on the aligned languages, with interval."""
    for difference in part.differences:
        if difference.model == model.label and (share := difference.gap_closed.get("aligned")):
            return f"{percent(share.value)} [{percent(share.low)}, {percent(share.high)}]"
    return NONE


def sentences(part: Part) -> list[str]:
    """The main results in words, Markdown: one line an arm that has a baseline."""
    lines = []
    for difference in part.differences:
        means = difference.means[part.section.scorer.HEADLINE]
        lines.append(
            f"{difference.model} minus {difference.baseline}, {headline(part)}: "
            f"{_by_role(means, language_sets(part.section))}. " + " ".join(_remarks(difference, means))
        )
    if part.comet:
        sets = _comet_sets(part.section, part.comet)
        lines += [
            f"{one.model} minus {one.baseline}, COMET × 100: {_by_role(one.means, sets)}."
            for one in part.comet.differences
        ]
    return lines


def _by_role(means: Mapping[str, Estimate], sets: Mapping[str, Sequence[str]]) -> str:
    """`aligned languages (3): **+2.3 [1.4, 3.3]**; supervised ...`"""
    return "; ".join(
        f"{role} languages ({len(sets[role])}): "
        + (f"**{interval(means[role])}**" if role == "aligned" else interval(means[role]))
        for role in ("aligned", "supervised", "unseen")
        if role in means
    )


def _comet_sets(section: Section, comet: Comet) -> dict[str, list[str]]:
    """The sets of directions, of those that COMET has scored."""
    return {
        name: [code for code in members if code in comet.directions]
        for name, members in language_sets(section).items()
    }


def headline(part: Part) -> str:
    """Name of the family's headline."""
    return METRIC_NAMES[part.section.scorer.HEADLINE]


def _remarks(difference: Difference, means: Mapping[str, Estimate]) -> Iterable[str]:
    aligned = means.get("aligned")
    if aligned and not math.isnan(aligned.value):
        if aligned.holds_zero:
            yield "On aligned languages the interval holds 0: no difference is shown."
        else:
            yield f"On aligned languages the arm is {'above' if aligned.value > 0 else 'below'} its baseline."
    if "aligned" in difference.gap_closed:
        gap, share = difference.baseline_gap["aligned"], difference.gap_closed["aligned"]
        bounds = f"{percent(gap.value)} [{percent(gap.low)}, {percent(gap.high)}]"
        if share:
            yield (
                f"Gap closed: {percent(share.value)}% [{percent(share.low)}, {percent(share.high)}] "
                f"of the baseline's gap of {bounds}."
            )
        else:
            reason = "holds 0" if gap.holds_zero else "lies below 0"
            yield f"Gap closed is not reported: the interval of the baseline's gap, {bounds}, {reason}."
    if not difference.paired_seeds:
        yield "The two share no seed: all seeds of both count."
    elif len(difference.seeds) > 1 and "aligned" in difference.by_seed:
        each = ", ".join(
            f"{seed}: {signed(value)}"
            for seed, value in zip(difference.seeds, difference.by_seed["aligned"], strict=True)
        )
        yield f"Aligned languages by seed: {each}."
    if not difference.same_engine:
        yield "The two were evaluated by different engines or dtypes, which may differ by themselves."


def with_error(score: Estimate) -> str:
    """`82.1 ± 0.4`, a dash where there is no case."""
    return NONE if math.isnan(score.value) else f"{percent(score.value)} ± {percent(score.stderr)}"


def _section(part: Part) -> str:
    section = part.section
    blocks = [f"## {title(section)}", _facts(part)]
    words = sentences(part)
    lonely = [
        model.label
        for model in part.models
        if model.recipe
        and model.arm not in ("base", "baseline")
        and model.label not in {difference.model for difference in part.differences}
    ]
    blocks.append(_main_table(part))
    if _engines_differ(part):
        blocks.append(
            "‡ The rows come from different engines or dtypes: differences between them are not the model's."
        )
    blocks += [
        f"§ {model.label} was trained on text of a test set: {'; '.join(model.overlap)}."
        for model in part.models
        if model.overlap
    ]
    blocks += [
        f"The training text of {model.label} was not compared with the test text: "
        f"{'; '.join(model.overlap_unchecked)}."
        for model in part.models
        if model.overlap_unchecked
    ]
    blocks.append("\n".join(f"- {line}" for line in words))
    if lonely:
        blocks.append(f"No baseline of the same recipe and training dtype here: {', '.join(lonely)}.")
    if part.differences:
        blocks += ["### Differences from the baseline", _difference_table(part)]
    blocks.append(f"![{headline(part)} by language: {title(section)}]({part.plot})")
    blocks += [f"### {headline(part)} by language".replace("slot", "Slot"), _language_table(part)]
    blocks += [f"### {_DETAILS[section.family][0]} by language", _details_table(part)]
    if part.comet:
        blocks += ["### COMET by direction", _comet_table(part, part.comet)]
    elif any(task.comet for row in section.rows for run in row.runs for task in run.record.tasks.values()):
        blocks.append(
            "COMET is not shown: no direction has scores of all these records by one COMET model. "
            "Evaluate them all with the same --comet."
        )
    if any(section.repeated(code) for code in section.languages):
        blocks += [
            f"### {headline(part)} without repeated items".replace("slot", "Slot"),
            _repeated_table(part),
        ]
    blocks.append(_sources(part))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _facts(part: Part) -> str:
    section, entry = part.section, part.section.first.record
    lines = []
    note = f" ({entry.base.note})" if entry.base.note else ""
    digest = f", digest `{entry.base.digest[:12]}`" if entry.base.digest else ""
    tokenizer = f", tokenizer `{section.tokenizer[:12]}`" if section.tokenizer else ""
    lines.append(f"- Base: {entry.base.name}{note}{digest}{tokenizer}")
    if earlier := bases.EARLIER_VERSIONS.get(entry.base.digest or ""):
        lines.append(f"- These scores belong to an earlier version of the bundled base ({earlier})")
    lines.append(f"- Items per language: {items_span(section)}; {sample_name(section)}")
    tasks = [section.first.task(code) for code in section.languages]
    versions = sorted({f"{task.version:g}" for task in tasks})
    data = _digest(task.data_digest for task in tasks)
    # None where outputs were made elsewhere: nobody here knows their prompts.
    known = [task.prompt_digest for task in tasks if task.prompt_digest]
    prompts = f"`{_digest(known)}`" if known else "unknown"
    lines.append(
        f"- Task version {', '.join(versions)}; digest of all data `{data}`, of all prompts {prompts}"
    )
    limits = {task.max_gen_toks for task in tasks if task.max_gen_toks is not None}
    if limits:
        lines.append(f"- Token limit of an answer: {_span(limits)}")
    for role in ROLES:
        codes = language_sets(section).get(role, [])
        if codes:
            lines.append(f"- {role.capitalize()} ({len(codes)}): {' '.join(codes)}")
    lines += _signature_lines(section)
    if superseded := _superseded(section):
        lines.append(superseded)
    recipes = sorted({model.recipe for model in part.models if model.recipe})
    if recipes:
        lines.append(f"- {'Recipe' if len(recipes) == 1 else 'Recipes'}: {', '.join(recipes)}")
    lines += _training_dtypes(part.models)
    ways = {(one.candidates, one.pooling): None for model in part.models for one in model.retrieval}
    layers = ", ".join(map(str, retrieval_layers(part.models)))
    lines += [
        f"- Retrieval: {candidates} candidates per language, states after {layers} blocks, {pooling}"
        for candidates, pooling in ways
    ]
    return "\n".join(lines)


def _training_dtypes(models: Sequence[Model]) -> list[str]:
    """Return the line on dtypes of training, with the rows of each if there are several; none if unknown."""
    labels: dict[str, list[str]] = {}
    for model in models:
        if model.training_dtype:
            labels.setdefault(model.training_dtype, []).append(model.label)
    if len(labels) < 2:
        return [f"- Trained in {dtype}" for dtype in labels]
    return ["- Trained in " + "; ".join(f"{dtype}: {', '.join(rows)}" for dtype, rows in labels.items())]


def _signature_lines(section: Section) -> list[str]:
    """Return a line per signature of sacreBLEU: with its directions, unless all of them have it."""
    lines = []
    for metric in (metric for metric in ("bleu", "chrf") if metric in section.scorer.METRICS):
        codes: dict[str | None, list[str]] = {}
        for code in section.languages:
            codes.setdefault(section.first.task(code).signatures.get(metric), []).append(code)
        for signature, signed in codes.items():
            where = "" if len(codes) == 1 else f": {' '.join(signed)}"
            missing = metric not in section.first.task(signed[0]).metrics
            said = f"`{signature}`" if signature else "no tokenizer here" if missing else "signature unknown"
            lines.append(f"- {METRIC_NAMES[metric]}: {said}{where}")
    return lines


def _superseded(section: Section) -> str | None:
    """Return the line that marks records of an earlier task version, None where the version is today's."""
    versions = set()
    for code in section.languages:
        with suppress(TaskError):  # a user's own data, or a task that is no more
            name = section.first.task_name(code)
            versions.add((section.first.task(code).version, float(harness.metadata(name)["version"])))
    earlier = sorted({was for was, now in versions if was != now})
    if not earlier:
        return None
    return (
        f"- **Made before task version {max(now for _, now in versions):g}** and kept as recorded: scores do "
        f"not compare with those of later records, and what these records lack is a dash"
    )


def _digest(digests: Iterable[str]) -> str:
    """One short digest of several."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:12]


def _engines_differ(part: Part) -> bool:
    return len({(model.engine, model.dtype) for model in part.models}) > 1


def _engine(part: Part, model: Model) -> str:
    mark = " ‡" if _engines_differ(part) else ""
    # Outputs made elsewhere have neither dtype nor device.
    known = ", ".join(filter(None, [f"{model.engine} {model.dtype}".strip(), "/".join(model.devices)]))
    return known + mark


def marked(model: Model) -> str:
    """A row's label, with § where the model was trained on text of a test set."""
    return f"{model.label} §" if model.overlap else model.label


def _main_table(part: Part) -> str:
    sets = [name for name in ("all", *ROLES, "high", "mid", "low") if name in language_sets(part.section)]
    gaps = [name for name in ("non-supervised", "aligned") if name in part.models[0].gap]
    header = ["model", "seeds", *(f"{name} ({len(language_sets(part.section)[name])})" for name in sets)]
    header += [f"gap {name}" for name in gaps]
    columns = retrieval_columns(part.models)
    header += ["gap closed", *columns, "cut off", "items", "engine"]
    rows = []
    for model in part.models:
        rows.append(
            [
                marked(model),
                "" if model.seeds == [None] else " ".join(str(seed) for seed in model.seeds),
                *(seeded(model, name) for name in sets),
                *(percent(model.gap[name].value) for name in gaps),
                closed(part, model),
                *(retrieval(part.section, model, layer) for layer in columns.values()),
                cut_off(part.section, model),
                items_name(part.section),
                _engine(part, model),
            ]
        )
    return _markdown(header, rows, left=(0, len(header) - 1))


def _difference_table(part: Part) -> str:
    sets = [
        name
        for name in ("aligned", "supervised", "unseen", "high", "mid", "low")
        if name in language_sets(part.section)
    ]
    rows = [
        [
            f"{difference.model} {MINUS} {difference.baseline}",
            METRIC_NAMES[metric],
            *(interval(difference.means[metric][name]) for name in sets),
        ]
        for difference in part.differences
        for metric in _DIFFERENCE_METRICS[part.section.family]
        if metric in part.section.metrics
    ]
    return _markdown(["models", "metric", *sets], rows, left=(0, 1))


def ordered(section: Section) -> list[str]:
    """Languages by role, then by code."""
    return [code for role in ROLES for code in language_sets(section).get(role, [])]


def _language_columns(section: Section, code: str) -> list[str]:
    return [
        f"{name_of(code)} `{code}`",
        section.role(code),
        resource_of(code),
        f"{section.first.task(code).n:,}",
    ]


def _language_table(part: Part) -> str:
    metric = part.section.scorer.HEADLINE
    header = ["language", "role", "class", "n", *(model.label for model in part.models)]
    header += [f"{difference.model} {MINUS} {difference.baseline}" for difference in part.differences]
    rows = []
    for code in ordered(part.section):
        cells = _language_columns(part.section, code)
        for model in part.models:
            score = model.languages[code][metric]
            cells.append(with_error(score))
        cells += [interval(difference.languages[code][metric]) for difference in part.differences]
        rows.append(cells)
    return "± standard error over items.\n\n" + _markdown(header, rows, left=(0, 1, 2))


def _details_table(part: Part) -> str:
    metrics = _DETAILS[part.section.family][1]
    header = ["language", "role", "class", "n", *(model.label for model in part.models)]
    rows = [
        [
            *_language_columns(part.section, code),
            *(
                " / ".join(percent(model.languages[code][metric].value) for metric in metrics)
                for model in part.models
            ),
        ]
        for code in ordered(part.section)
    ]
    names = " / ".join(METRIC_NAMES[metric] for metric in metrics)
    return f"Each cell: {names}, in per cent.\n\n" + _markdown(header, rows, left=(0, 1, 2))


def _comet_table(part: Part, comet: Comet) -> str:
    """Scores and differences by direction; of scores there is no mean, of differences there is."""
    section, sets = part.section, _comet_sets(part.section, comet)
    header = ["language", "role", "class", "n", *comet.models]
    header += [f"{one.model} {MINUS} {one.baseline}" for one in comet.differences]
    rows = [
        [
            *_language_columns(section, code),
            *(with_error(of[code]) for of in comet.models.values()),
            *(interval(one.languages[code]) for one in comet.differences),
        ]
        for code in ordered(section)
        if code in comet.directions
    ]
    if comet.differences:
        rows += [
            [f"mean of {len(sets[role])}", role, "", "", *(NONE for _ in comet.models)]
            + [interval(one.means[role]) for one in comet.differences]
            for role in ROLES
            if sets.get(role)
        ]
    of = f"{len(comet.directions)} of the {len(section.languages)} directions"
    return (
        f"{comet.name} (digest `{comet.digest[:12]}`, unbabel-comet {comet.version}), times 100, ± standard "
        f"error over items, on {of}. Scores compare models on one direction, never two directions.\n\n"
        + _markdown(header, rows, left=(0, 1, 2))
    )


def _repeated_table(part: Part) -> str:
    header = ["language", "role", "class", "n", "repeated", *(model.label for model in part.models)]
    metric, rows = part.section.scorer.HEADLINE, []
    for code in (code for code in ordered(part.section) if part.section.repeated(code)):
        cells = [*_language_columns(part.section, code), f"{part.section.repeated(code):,}"]
        for model in part.models:
            without = model.without_repeated.get(code)
            score = percent(model.languages[code][metric].value)
            cells.append(NONE if without is None else f"{score} → {percent(without)}")
        rows.append(cells)
    return (
        "Repeated: items that occur verbatim in the training split of the same data set and language, "
        "whether or not a model was trained on it. Each cell: all items → without them.\n\n"
        + _markdown(header, rows, left=(0, 1, 2))
    )


def _sources(part: Part) -> str:
    names = ", ".join(f"`{Path(file).stem}`" for model in part.models for file in model.records)
    return f"From the records {names}."


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """A table whose columns are right-aligned but for those in `left`."""
    marks = [":--" if i in left else "--:" for i in range(len(header))]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
