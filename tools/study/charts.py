"""Charts of a study's page, as SVG that stands in the page itself: its text is text, in the fonts of the page."""

from __future__ import annotations

import io
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tools.study.report import Result, set_count_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["arm_colors", "draw_boxes", "draw_curve", "shown_counts"]

_COLORS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#7f7f7f",
    "#5d3a9b",
)  # after Okabe and Ito
_INK, _FAINT = "#333333", "#d8d8d8"
_MOST_PANELS = 3  # of box plots
_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "text.color": _INK}


def arm_colors(arms: Sequence[str]) -> dict[str, str]:
    return {arm: _COLORS[index % len(_COLORS)] for index, arm in enumerate(arms)}


def draw_curve(results: Sequence[Result], arms: Sequence[str]) -> str:
    """Return an SVG of Dice against label count: a line through the means, a dot for each draw, a band of ± 1 SD."""
    counts = sorted({result.run.num_labeled for result in results})

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, (arm, color) in enumerate(arm_colors(arms).items()):
            values = {count: _draw_means(results, arm, count) for count in counts}
            values = {count: dice for count, dice in values.items() if dice}
            if not values:
                continue
            shift = 1.025 ** (index - (len(arms) - 1) / 2)
            means = [statistics.fmean(dice) for dice in values.values()]
            spreads = [statistics.stdev(dice) if len(dice) > 1 else 0.0 for dice in values.values()]
            low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
            axes.fill_between([*values], low, high, color=color, alpha=0.12, linewidth=0)
            for count, dice in values.items():
                axes.plot([count * shift] * len(dice), dice, "o", color=color, markersize=3.5, alpha=0.55, mew=0)
            axes.plot([*values], means, "o-", color=color, markersize=6, linewidth=2, label=arm)
        set_count_axis(axes, counts)
        axes.set(xlabel="labeled scans", ylabel="Dice")
        _clean(axes)
        axes.grid(axis="both", color=_FAINT, linewidth=0.7)
        axes.legend(frameon=False, loc="lower right")

    return _to_svg(draw, (7.6, 4.2), "curve")


def shown_counts(results: Sequence[Result]) -> list[int]:
    """Return the label counts whose box plots are shown: all, or first, middle and last of more than three."""
    counts = sorted({result.run.num_labeled for result in results})
    return counts if len(counts) <= _MOST_PANELS else [counts[0], counts[len(counts) // 2], counts[-1]]


def draw_boxes(results: Sequence[Result], arms: Sequence[str]) -> str:
    """Return an SVG of box plots of Dice per class: a panel for each label count, a box for each arm, over cases."""
    counts = shown_counts(results)
    classes = list(dict.fromkeys(name for r in results for row in r.dice.values() for name in row if name != "mean"))
    colors = arm_colors(arms)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(counts), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, count in zip(panels, counts, strict=True):
            for index, arm in enumerate(arms):
                values = _case_means([result for result in results if result.cell == (arm, count)], classes)
                width = 0.8 / len(arms)
                places = [place + (index - (len(arms) - 1) / 2) * width for place in range(len(classes))]
                _draw_box(axes, [values[name] for name in classes], places, width, colors[arm])
            axes.set_title(f"{count} labeled", loc="left", fontsize=10, color=_INK, fontweight="bold")
            axes.set(ylabel="Dice", ylim=(-0.03, 1.03), xlim=(-0.6, len(classes) - 0.4))
            _clean(axes)
            axes.grid(axis="y", color=_FAINT, linewidth=0.7)
        panels[-1].set_xticks(range(len(classes)), classes, rotation=0 if len(classes) < 7 else 30)
        marks = [axes.plot([], [], "s", color=color, alpha=0.6, markersize=9)[0] for color in colors.values()]
        figure.legend(marks, [*colors], frameon=False, loc="outside upper right", ncols=len(arms))

    return _to_svg(draw, (7.6, 0.7 + 2.2 * len(counts)), "boxes")


def _draw_box(axes: Axes, values: Sequence[Sequence[float]], places: Sequence[float], width: float, color: str) -> None:
    found = [(dice, place) for dice, place in zip(values, places, strict=True) if dice]
    if found:
        axes.boxplot(
            [dice for dice, _ in found],
            positions=[place for _, place in found],
            widths=0.8 * width,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": color, "alpha": 0.6, "linewidth": 0},
            medianprops={"color": _INK, "linewidth": 1.6},
            whiskerprops={"color": color},
            capprops={"color": color},
            flierprops={"marker": "o", "markersize": 3, "markerfacecolor": color, "markeredgewidth": 0, "alpha": 0.7},
        )


def _draw_means(results: Sequence[Result], arm: str, count: int) -> list[float]:
    return [
        statistics.fmean(result.means.values()) for result in results if result.cell == (arm, count) and result.means
    ]


def _case_means(results: Sequence[Result], classes: Sequence[str]) -> Mapping[str, list[float]]:
    """Return the Dice of each case by class, averaged over draws; a case without the class is left out."""
    values: dict[str, dict[str, list[float]]] = {name: {} for name in classes}
    for result in results:
        for case, row in result.dice.items():
            for name in classes:
                if math.isfinite(row.get(name, math.nan)):
                    values[name].setdefault(case, []).append(row[name])
    return {name: [statistics.fmean(dice) for dice in cases.values()] for name, cases in values.items()}


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(color=_FAINT, labelcolor=_INK)
    axes.set_axisbelow(True)


def _to_svg(draw, size: tuple[float, float], name: str) -> str:
    """Return a figure as an `<svg>` element as wide as its place; `name` keeps its ids from those of another."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    return re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)
