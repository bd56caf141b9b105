"""Panels stand in rows; those that are left over are empty."""

from __future__ import annotations

import pytest

from tenfold.core.panels import panels


@pytest.mark.parametrize(("count", "most", "grid"), [(1, 3, (1, 1)), (3, 3, (1, 3)), (4, 3, (2, 3)), (2, 5, (1, 2))])
def test_panels_in_rows(count: int, most: int, grid: tuple[int, int]) -> None:
    figure, axes = panels(count, 2.0, 1.5, most=most)
    assert len(axes) == count and all(axis.axison for axis in axes)
    assert len(figure.axes) == grid[0] * grid[1] and sum(axis.axison for axis in figure.axes) == count
    assert figure.get_size_inches().tolist() == [2.0 * grid[1], 1.5 * grid[0]]
