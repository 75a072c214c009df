"""A review as Markdown: the text of a pull request, and of a comment on one."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby

from midalign import harness
from midalign.data.registry import data_set, republishable
from midalign.errors import MidalignError
from midalign.escaping import code_span, command_line, escape_comment, plain_text
from midalign.languages import ROLES
from midalign.leaderboard.check import group_findings
from midalign.leaderboard.formatting import NONE, format_difference, markdown_table
from midalign.leaderboard.load import Run
from midalign.leaderboard.missing import rerun_command
from midalign.leaderboard.result_sentences import count_differing
from midalign.leaderboard.section_figures import sample_name
from midalign.leaderboard.sections import language_sets
from midalign.leaderboard.submission import RESULTS, BaselineDifference, ChangeReview
from midalign.record import Record

LICENCE = "[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)"
"""Licence of published records."""
LONGEST = 1000
"""Characters of a finding."""
LONGEST_COMMAND = 2000
"""Characters of a command to reproduce. Longer ones are left out."""

_PLEDGE = f"""\
## Declaration

- [ ] The records are mine to publish, and I publish them under {LICENCE}.
- [ ] They were written by `midalign eval`, `midalign-train` or `midalign score`, and not edited.
- [ ] "Training" above names all task data and sentence pairs that the models were trained on.
"""


def pull_request_text(review: ChangeReview) -> str:
    """Return the text of the pull request that submits the records."""
    return f"{_review_text(review)}\n{_PLEDGE}"


def comment_text(review: ChangeReview) -> str:
    """Return the comment on a pull request: the verdict, then the same text."""
    change = review.change
    parts = {"added or changed": len(change.submitted), "removed": len(change.removed)}
    counted = ", ".join(f"{count} {what}" for what, count in parts.items())
    verdict = "All checks pass"
    if review.failed:
        verdict = "These records must not be merged yet"
    elif change.logs:
        verdict = "The log of verifications changes. Only maintainers may change it"
    return f"**{verdict}.** Records: {counted}.\n\n{_review_text(review)}"


def pull_request_title(review: ChangeReview) -> str:
    """Return a title such as `Add 3 records of mini-switched`."""
    titles = dict.fromkeys(_model(run.record) for run in review.runs)
    more = f" and {len(titles) - 1} more" if len(titles) > 1 else ""
    number = len(review.change.submitted)
    return (
        f"Add {number} {'record' if number == 1 else 'records'} of {plain_text(next(iter(titles)), 60)}{more}"
    )


def _review_text(review: ChangeReview) -> str:
    blocks = [_findings(review), _records(review), _removed(review)]
    if review.differences:
        blocks.append(_differences(review.differences))
    elif review.runs:
        blocks.append("## Differences from baselines\n\nNo baseline of the same base has the same items.")
    if review.runs:
        blocks += [_training(review), _reproduction(review), _licence(review)]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _model(record: Record) -> str:
    """Return the name of a record's model: the base, or recipe, arm and seed, or the adapter."""
    if record.recipe:
        return f"{record.recipe.name}: {record.arm}"
    return record.adapter.name if record.adapter else record.base.name


def _records(review: ChangeReview) -> str:
    header = ["record", "model", "seed", "base", "tasks", "sample", "engine", "check"]
    rows = []
    for name, check in zip(review.change.submitted, review.checks, strict=True):
        verdict = "**fails**" if check.failed else "passes"
        if check.record is None:
            rows.append([code_span(name), *[NONE] * (len(header) - 2), verdict])
            continue
        record = check.record
        sample = record.sample
        engine = [record.engine.name, record.engine.dtype, record.engine.gpu or record.engine.device]
        rows.append(
            [
                code_span(name),
                code_span(_model(record)),
                NONE if record.seed is None else str(record.seed),
                code_span(record.base.name),
                _groups(review.runs, name) or f"{len(record.tasks)} tasks",
                f"{code_span(sample.split)}, {f'{sample.limit} items' if sample.limit else 'all items'}",
                code_span(", ".join(filter(None, engine))),
                verdict,
            ]
        )
    if not rows:
        return "## Records\n\nNo record is added or changed."
    return f"## Records\n\nIn `{RESULTS}`.\n\n" + markdown_table(header, rows, left=range(len(header)))


def _groups(runs: Sequence[Run], name: str) -> str:
    """Return the task groups of a record with their versions and numbers of languages."""
    parts = []
    for run in (run for run in runs if run.file == name):
        versions = "/".join(sorted({f"{run.task(code).version:g}" for code in run.languages}))
        missing = _number_missing(run)
        partial = f", **partial**, {missing} missing" if missing else ""
        parts.append(f"{code_span(run.group)} v{versions} ({len(run.languages)}{partial})")
    return ", ".join(parts)


def _number_missing(run: Run) -> int:
    """Return how many tasks of its group a run lacks, as far as this version knows the group."""
    with suppress(MidalignError, KeyError):
        return len(set(harness.expand([run.group])) - {run.task_name(code) for code in run.languages})
    return 0


def _removed(review: ChangeReview) -> str:
    names = review.change.removed
    listed = "\n".join(f"- {code_span(name)}" for name in names)
    return f"## Withdrawn\n\n{listed}" if names else ""


def _findings(review: ChangeReview) -> str:
    lines = [f"- **fails**: {_foreign(problem, review)}" for problem in review.problems]
    for finding, files in group_findings(review.checks).items():
        state = "**fails**" if finding.state == "fail" else "note"
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        name = code_span(review.names.get(files[0], files[0].name))
        lines.append(f"- {state}, {finding.subject}, {name}{more}: {_foreign(finding.text, review)}")
    lines += [f"- note: {_foreign(note, review)}" for note in review.notes]
    if review.change.logs and not review.change.submitted:
        logs = ", ".join(map(code_span, review.change.logs))
        lines.append(f"- note: {logs} changes and decides which records are **verified**")
    if others := review.change.other_files:
        shown = ", ".join(map(code_span, others[:20]))
        more = f" and {len(others) - 20} more" if len(others) > 20 else ""
        lines.append(f"- note: other files change too: {shown}{more}")
    return "## Findings\n\n" + "\n".join(lines) if lines else ""


def _foreign(text: str, review: ChangeReview) -> str:
    """Return a message for a comment, with absolute paths of records by their path below RESULTS."""
    for name, file in [*review.change.published.items(), *review.change.proposed.items()]:
        if not file.is_absolute():
            continue
        folder = "" if "/" not in name else f"{name.rpartition('/')[0]}/"
        text = text.replace(str(file), name).replace(f"{file.parent}/", folder)
    return escape_comment(text, LONGEST)


def _differences(differences: Sequence[BaselineDifference]) -> str:
    blocks = [
        "## Differences from baselines\n\nModel minus baseline (or base), in points of the task's main "
        "score, with 95% intervals over documents and, if both have several, seeds. SDD: smallest detectable "
        "difference."
    ]
    for (title, columns), members in groupby(sorted(differences, key=_table_key), _table_key):
        blocks.append(f"### {title}\n\n{_difference_table(columns, list(members))}")
    return "\n\n".join(blocks)


def _table_key(entry: BaselineDifference) -> tuple[str, tuple[tuple[str, int], ...]]:
    """Return what the rows of a table share: its title, and the sets of languages with their sizes."""
    section, sets = entry.pair.section, language_sets(entry.pair.section)
    score = section.scorer.METRICS[section.scorer.HEADLINE].title
    title = f"{code_span(section.group)}, {escape_comment(sample_name(section))}, {score}"
    return title, tuple((name, len(sets[name])) for name in ("all", *ROLES) if name in sets)


def _difference_table(sets: Sequence[tuple[str, int]], entries: Sequence[BaselineDifference]) -> str:
    header = ["model", "minus", *(f"{name} ({size})" for name, size in sets)]
    unit = entries[0].pair.section.unit
    header += [f"{unit}s after Holm's correction", "seeds", "remarks"]
    rows = []
    for entry in entries:
        difference = entry.difference
        means = difference.means[entry.pair.section.scorer.HEADLINE]
        rows.append(
            [
                code_span(entry.model),
                f"{code_span(entry.reference)}{'' if entry.published else ' (submitted)'}",
                *(format_difference(means[name]) for name, _ in sets),
                count_differing(difference.languages, difference.holm),
                " ".join(map(str, difference.seeds)) if difference.paired_seeds else "unpaired",
                escape_comment("; ".join(_remarks(entry)), LONGEST),
            ]
        )
    return markdown_table(header, rows, left=range(len(header)))


def _remarks(entry: BaselineDifference) -> Iterator[str]:
    """Yield what else than the model may cause the difference, and which languages have no part in it."""
    if entry.pair.other_conditions:
        yield f"differ in {', '.join(entry.pair.other_conditions)}"
    if entry.pair.left_out:
        yield f"other items of {' '.join(entry.pair.left_out)}"


def _training(review: ChangeReview) -> str:
    header = ["record", "supervised", "aligned", "training text", "overlap with test text"]
    rows = []
    for name, record in _passed(review):
        manifest = record.adapter.manifest if record.adapter else None
        texts = [
            f"{text.source}: {' '.join(text.languages)}"
            for text in (manifest and manifest.training_text) or []
        ]
        overlaps = [overlap.sentence for overlap in record.known_overlaps if overlap.texts_found]
        unchecked = record.overlap.unchecked if record.overlap else []
        marks = [
            *(f"§ {sentence}" for sentence in overlaps),
            *(f"not compared: {text}" for text in unchecked),
        ]
        if record.adapter and record.overlap is None:
            marks.append("not compared")
        rows.append(
            [
                code_span(name),
                escape_comment(" ".join(record.roles.supervised), LONGEST) or NONE,
                escape_comment(" ".join(record.roles.aligned), LONGEST) or NONE,
                escape_comment("; ".join(texts) or record.trained_on, LONGEST) or NONE,
                escape_comment("; ".join(marks), LONGEST) or "none found",
            ]
        )
    return "## Training\n\n" + markdown_table(header, rows, left=range(len(header)))


def _passed(review: ChangeReview) -> Iterator[tuple[str, Record]]:
    for name, check in zip(review.change.submitted, review.checks, strict=True):
        if check.record and not check.failed:
            yield name, check.record


def _reproduction(review: ChangeReview) -> str:
    """Return the commands that evaluate the models again, and verify the records."""
    commands = dict.fromkeys(filter(None, map(rerun_command, review.runs)))
    for name, record in _passed(review):
        if record.engine.name != "external":
            adapter = " --adapter FOLDER" if record.adapter else ""
            path = shlex.quote(f"{RESULTS}/{name}")
            commands[f"midalign leaderboard verify {path} --rerun 100{adapter}"] = None
    recipes = {
        f"recipe {code_span(record.recipe.name)}, digest {code_span(record.recipe.digest[:12])}": None
        for _, record in _passed(review)
        if record.recipe
    }
    versions = {
        ", ".join(f"{name} {record.packages.get(name, '?')}" for name in ("midalign", "lm-eval")): None
        for _, record in _passed(review)
    }
    facts = "; ".join([*recipes, *map(escape_comment, versions)])
    # Every line begins with the name of a command, so none can end the block.
    lines = [command_line(command) for command in commands if len(command) <= LONGEST_COMMAND]
    block = "\n".join(["\n\n```bash", *lines, "```"]) if lines else ""
    omitted = len(commands) - len(lines)
    subject = "1 command is" if omitted == 1 else f"{omitted} commands are"
    note = f"\n\n{subject} longer than {LONGEST_COMMAND:,} characters and omitted." if omitted else ""
    return f"## Reproduce\n\n{facts}.{block}{note}"


def _licence(review: ChangeReview) -> str:
    lines = [f"## Licence\n\nThe records are published under {LICENCE}. They hold counts, and no outputs."]
    sources: dict[str, None] = {}
    for run in review.runs:
        for code in run.languages:
            with suppress(MidalignError, KeyError):
                sources[str(harness.metadata(run.task_name(code))["source"])] = None
    known = [
        f"- {name}: {data_set(name).LICENCE}"
        + ("" if republishable(name) else ". Do not publish outputs, which quote it")
        for name in sources
    ]
    return "\n".join([*lines, "", "Data:", "", *known] if known else lines)
