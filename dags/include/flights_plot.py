"""The picture of the flights: who is late, and when."""

from __future__ import annotations

import calendar
from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")  # a node has no display

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import TwoSlopeNorm

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

INK = "#1f2933"
MUTED = "#7b8794"
EARLY_LIMIT, LATE_LIMIT = -20.0, 40.0  # minutes; the colours' ends, few cells lie beyond


def draw(cells: Sequence[tuple], carriers: Sequence[tuple], file: Path) -> None:  # type: ignore[type-arg]
    """Draw a carrier-by-month map of the mean delay, and each carrier's mean and 95th percentile of the year.

    Args:
        cells: carrier, month, flights, mean delay, … per carrier and month; delays in minutes.
        carriers: carrier, name, flights, mean delay, 95th percentile; in the order of the rows, top first.
        file: where the PNG goes.
    """
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9, "text.color": INK, "axes.labelcolor": INK})
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 6), sharey=True, width_ratios=[2.3, 1], layout="constrained", facecolor="white"
    )
    draw_map(left, cells, [row[0] for row in carriers])
    left.set_yticks(range(len(carriers)), [f"{name.removesuffix(' Inc.')}  {code}" for code, name, *_ in carriers])
    draw_year(right, carriers)
    flights = sum(row[2] for row in carriers)
    figure.suptitle(
        f"How late {flights:,} flights from New York City arrived, 2013",
        x=0.01,
        ha="left",
        fontsize=14,
        weight="bold",
    )
    figure.savefig(file, dpi=100)
    plt.close(figure)


def draw_map(axes: Axes, cells: Sequence[tuple], order: list[str]) -> None:  # type: ignore[type-arg]
    """Draw the mean delays as coloured cells with their numbers."""
    grid = np.full((len(order), 12), np.nan)
    for carrier, month, _flights, mean, *_ in cells:
        grid[order.index(carrier), month - 1] = np.nan if mean is None else mean
    axes.imshow(grid, cmap="RdBu_r", norm=TwoSlopeNorm(0, EARLY_LIMIT, LATE_LIMIT), aspect="auto")
    for (row, column), mean in np.ndenumerate(grid):
        if not np.isnan(mean):
            strong = mean < 0.7 * EARLY_LIMIT or mean > 0.7 * LATE_LIMIT
            axes.text(column, row, f"{mean:z.0f}", ha="center", va="center", color="white" if strong else INK)
    axes.set_xticks(range(12), calendar.month_abbr[1:])
    axes.set_title("Mean delay on arrival, minutes (blue: early, red: late)", loc="left", fontsize=10, color=MUTED)
    bare(axes)


def draw_year(axes: Axes, carriers: Sequence[tuple]) -> None:  # type: ignore[type-arg]
    """Draw each carrier's mean and 95th percentile of the year as two dots with a line between."""
    rows = range(len(carriers))
    mean = [row[3] for row in carriers]
    late = [row[4] for row in carriers]
    axes.hlines(rows, mean, late, color="#cbd2d9", linewidth=2.5, zorder=1)
    axes.scatter(mean, rows, color="#2a6fbb", s=34, zorder=2)
    axes.scatter(late, rows, color="#b2182b", s=34, zorder=2)
    for row, value in zip(rows, late, strict=True):
        axes.annotate(f"{value:.0f}", (value, row), (7, 0), textcoords="offset points", va="center", color=MUTED)
    axes.set_xlim(min(0.0, *mean) - 8, max(late) * 1.15)
    axes.set_title("Year: mean, and 95 % within", loc="left", fontsize=10, color=MUTED)
    axes.axvline(0, color="#cbd2d9", linewidth=1, zorder=0)
    bare(axes)


def bare(axes: Axes) -> None:
    """Take frame and tick marks away."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK)
