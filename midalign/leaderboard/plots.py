"""Dumbbell plots per language: from the baseline to each other arm, and the difference with its interval."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from midalign.escaping import plain_text
from midalign.languages import ROLES
from midalign.leaderboard.compare import Difference, ModelFigures
from midalign.leaderboard.formatting import MINUS
from midalign.leaderboard.section_figures import SectionFigures, headline_title, items_span, sample_name
from midalign.leaderboard.sections import language_sets, language_title, resource_of
from midalign.leaderboard.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours (2008), then three of Tol's (2021), are distinct for the common forms of colour
# blindness. There is one shape more, so that the tenth arm differs from the first.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#882255", "#999933", "#332288"),
)
SHAPES = ("o", "s", "D", "^", "v", "P", "X", "p", "<", ">")
MOST_JOINED = 4
"""Most arms joined to their baseline by lines. More lines would overlap."""
MARGIN = 0.015
"""Part of the axis left of 0, so that marks at 0 are whole."""
GREY = "#767676"
INCH = 0.21
"""Height of a language."""


@dataclass(frozen=True)
class _Line:
    """A line of the plot: the mean of a role, or one of its languages if `code` is set."""

    y: float
    role: str
    code: str | None
    metric: str

    def of(self, figures: ModelFigures | Difference) -> Estimate:
        """Return the line's figure of a model or difference."""
        if self.code:
            return figures.languages[self.code][self.metric]
        return figures.means[self.metric][self.role]


@contextmanager
def plot_style(font_size: float = 9) -> Iterator[None]:
    """Set what all plots share. Names may contain dollar signs, which would begin a formula."""
    import matplotlib.pyplot as plt

    settings: Any = {"font.size": font_size, "text.parse_math": False}
    with plt.style.context("default"), plt.rc_context(settings):
        yield


def plot_section(part: SectionFigures) -> bytes:
    """Plot a section as a PNG. The same figures and matplotlib give the same bytes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = _lines(part)
    paired = bool(part.differences)
    # Arms are drawn above each other in a language's line, so more arms need more height.
    height = 1.7 + INCH * (1 + 0.35 * max(0, len(part.differences) - 1)) * lines[-1].y
    with plot_style():
        figure, axes = plt.subplots(
            1,
            2 if paired else 1,
            figsize=(10 if paired else 6.5, height),
            sharey=True,
            squeeze=False,
            width_ratios=(3, 2) if paired else (1,),
            layout="constrained",
        )
        _label_lines(axes[0, 0], lines, part.section.unit)
        _draw_scores(axes[0, 0], part, lines)
        if paired:
            _draw_differences(axes[0, 1], part, lines)
        section, base = part.section, part.section.first.record.base
        note = f" ({base.note})" if base.note else ""
        figure.suptitle(
            f"{plain_text(f'{section.group} on {base.name}{note}')}\n"
            f"{plain_text(sample_name(section))}; n = {items_span(section)} per {section.unit}",
            fontsize=11,
        )
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
        plt.close(figure)
    return buffer.getvalue()


def _legend_label(label: str) -> str:
    """Return a row's label. matplotlib drops entries that begin with an underscore."""
    shown = plain_text(label)
    return f" {shown}" if shown.startswith("_") else shown


def _lines(part: SectionFigures) -> list[_Line]:
    """Return the lines from the top: per role its mean, then its languages from the best score down."""
    order = next((model for model in part.models if model.arm == "baseline"), part.models[0])
    lines, y = [], 0.0
    metric = part.section.scorer.HEADLINE
    for role in ROLES:
        codes = language_sets(part.section).get(role, [])
        if not codes:
            continue
        lines.append(_Line(y, role, None, metric))
        y += 1.2
        for code in sorted(codes, key=lambda code: -order.languages[code][metric].value):
            lines.append(_Line(y, role, code, metric))
            y += 1
        y += 0.8
    return lines


def _label_lines(axes: "Axes", lines: list[_Line], unit: str) -> None:
    axes.set_yticks([line.y for line in lines])
    names = [
        f"{language_title(line.code)} ({line.code}), {resource_of(line.code)}"
        if line.code
        else f"{line.role}, mean"
        for line in lines
    ]
    for text, line in zip(axes.set_yticklabels(names), lines, strict=True):
        text.set_fontweight("normal" if line.code else "bold")
    axes.set_ylim(lines[-1].y + 0.8, -0.8)
    axes.set_ylabel(f"{unit}, class")


def _finish(axes: "Axes", lines: list[_Line]) -> None:
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    for line in lines:
        if line.code is None:
            axes.axhspan(line.y - 0.5, line.y + 0.5, color="#f2f2f2", zorder=0)


def _style(part: SectionFigures, model: ModelFigures) -> tuple[str, str, float]:
    """Return colour, shape and vertical shift: base grey, baselines black, other arms in colour."""
    if model.arm == "base":
        return GREY, "|", 0.0
    if model.arm == "baseline":
        baselines = [other.label for other in part.models if other.arm == "baseline"]
        return "black", SHAPES[baselines.index(model.label) % len(SHAPES)], 0.0
    arms = [other.label for other in part.models if other.arm not in ("base", "baseline")]
    i = arms.index(model.label)
    return COLOURS[i % len(COLOURS)], SHAPES[i % len(SHAPES)], 0.6 * ((i + 0.5) / len(arms) - 0.5)


def _draw_scores(axes: "Axes", part: SectionFigures, lines: list[_Line]) -> None:
    models = {model.label: model for model in part.models}
    for difference in part.differences if len(part.differences) <= MOST_JOINED else ():
        model, baseline = models[difference.model], models[difference.baseline]
        colour, _, shift = _style(part, model)
        for line in lines:
            axes.plot(
                [100 * line.of(baseline).value, 100 * line.of(model).value],
                [line.y, line.y + shift],
                color=colour,
                linewidth=1.6,
                alpha=0.6,
                zorder=2,
            )
    for model in part.models:
        colour, shape, shift = _style(part, model)
        filled = model.arm not in ("base", "baseline")
        axes.plot(
            [100 * line.of(model).value for line in lines],
            [line.y + shift for line in lines],
            linestyle="none",
            marker=shape,
            markersize=5.5 if model.arm != "base" else 10,
            color=colour,
            markerfacecolor=colour if filled else "white",
            markeredgewidth=1.2 if model.arm != "base" else 2,
            label=_legend_label(model.label),
            zorder=3,
        )
    axes.set_xlabel(f"{headline_title(part)} (%)")
    axes.set_xlim(left=-MARGIN * axes.get_xlim()[1])
    _finish(axes, lines)


def _draw_differences(axes: "Axes", part: SectionFigures, lines: list[_Line]) -> None:
    models = {model.label: model for model in part.models}
    for difference in part.differences:
        colour, shape, shift = _style(part, models[difference.model])
        for line in lines:
            change = line.of(difference)
            axes.plot(
                [100 * change.low, 100 * change.high],
                [line.y + shift] * 2,
                color=colour,
                linewidth=1.2,
                zorder=2,
            )
            axes.plot(
                100 * change.value, line.y + shift, color=colour, marker=shape, markersize=4.5, zorder=3
            )
    axes.axvline(0, color="black", linewidth=0.8, zorder=1)
    axes.set_xlabel(f"arm {MINUS} baseline, points, 95% paired interval")
    _finish(axes, lines)
