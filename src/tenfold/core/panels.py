"""Panels of a figure, in rows."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure


def panels(count: int, width: float = 3.5, height: float = 3.0, most: int = 3) -> tuple[Figure, list[Any]]:
    """A figure with so many panels in rows of at most `most`.

    Args:
        width, height: of a panel, inches.
    Returns:
        The figure, and the axes of each panel.
    """
    columns = min(count, most)
    lines = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]
