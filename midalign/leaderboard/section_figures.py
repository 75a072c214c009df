"""A section of the board with its figures, and the titles of its tables and plots."""

from collections.abc import Sequence
from dataclasses import dataclass

from midalign.leaderboard.comet_comparison import CometComparison
from midalign.leaderboard.compare import Difference, ModelFigures
from midalign.leaderboard.formatting import format_span
from midalign.leaderboard.sections import BoardSection


@dataclass(frozen=True)
class SectionFigures:
    """A section with its figures and the name of its plot."""

    slug: str
    section: BoardSection
    models: list[ModelFigures]
    differences: list[Difference]
    comet: CometComparison | None = None
    other_pairs: Sequence[Difference] = ()
    """Differences of all other pairs of rows, for the page."""
    reworded: Sequence["SectionFigures"] = ()
    """Sections that differ from this one, with the first wording of the prompts, in the wording alone."""

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

    The decoding regime follows unless it is free, and the wording of the prompts unless it is the first.
    """
    sample = section.first.record.sample
    regime = "" if section.regime == "free" else f", {section.regime} decoding"
    wording = f", wording {section.wording}" if section.wording != 1 else ""
    if sample.limit is None:
        return f"full {sample.split} split{regime}{wording}"
    return f"sample of {sample.limit} of the {sample.split} split (seed {sample.seed}){regime}{wording}"


def items_span(section: BoardSection) -> str:
    """Return the items per language: `300`, or `150–300` if languages differ."""
    return format_span({section.first.task(code).n for code in section.languages})


def items_name(section: BoardSection) -> str:
    """Return `items_span`, marked if it is a sample: `100 (sample)`."""
    return items_span(section) + ("" if section.first.record.sample.limit is None else " (sample)")


def headline_title(part: SectionFigures) -> str:
    """Return the title of the family's headline metric."""
    return part.section.scorer.METRICS[part.section.scorer.HEADLINE].title


def retrieval_layers(models: Sequence[ModelFigures]) -> list[int]:
    """Return the layers after which retrieval was measured for any model, lowest first."""
    return sorted({measured.layer for model in models for measured in model.retrieval})
