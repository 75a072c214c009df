"""A section of the board with its figures, and the titles of its tables and plots."""

from collections.abc import Sequence
from dataclasses import dataclass

from midalign.leaderboard.comet_comparison import CometComparison
from midalign.leaderboard.compare import Difference, ModelFigures
from midalign.leaderboard.formatting import format_span
from midalign.leaderboard.sections import BoardSection

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


@dataclass(frozen=True)
class SectionFigures:
    """A section with its figures and the name of its plot."""

    slug: str
    section: BoardSection
    models: list[ModelFigures]
    differences: list[Difference]
    comet: CometComparison | None = None

    @property
    def plot(self) -> str:
        """The plot's path below the output folder."""
        return f"plots/{self.slug}.png"


def section_title(section: BoardSection) -> str:
    """Return task group, base and sample."""
    entry = section.first.record
    return f"{section.group}, {entry.base.name}, {sample_name(section)}"


def sample_name(section: BoardSection) -> str:
    """Return the sample, such as `full test split` or `sample of 100 of the test split (seed 0)`.

    The decoding regime follows unless it is free.
    """
    sample = section.first.record.sample
    regime = "" if section.regime == "free" else f", {section.regime} decoding"
    if sample.limit is None:
        return f"full {sample.split} split{regime}"
    return f"sample of {sample.limit} of the {sample.split} split (seed {sample.seed}){regime}"


def items_span(section: BoardSection) -> str:
    """Return the items per language: `300`, or `150–300` if languages differ."""
    return format_span({section.first.task(code).n for code in section.languages})


def items_name(section: BoardSection) -> str:
    """Return `items_span`, marked if it is a sample: `100 (sample)`."""
    return items_span(section) + ("" if section.first.record.sample.limit is None else " (sample)")


def headline_title(part: SectionFigures) -> str:
    """Return the title of the family's headline metric."""
    return METRIC_NAMES[part.section.scorer.HEADLINE]


def retrieval_layers(models: Sequence[ModelFigures]) -> list[int]:
    """Return the layers after which retrieval was measured for any model, lowest first."""
    return sorted({measured.layer for model in models for measured in model.retrieval})
