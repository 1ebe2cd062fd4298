"""Small strips that show a cell's interval at a glance: an inline SVG in each line of the page's
table.
"""

from collections.abc import Iterable

from markupsafe import Markup

from analysis.table import CellResult, Table
from analysis.tables.text import number, signed

HEIGHT, EDGE = 22, 6


class IntervalScale:
    """The common scale of a table's strips, in the metric's unit: around each cell's published
    number, or absolute in a table without any.

    Wide intervals of few seeds must not press everything else together: an interval that leaves
    the scale ends in an arrow.
    """

    def __init__(self, table: Table):
        self.relative = table.has_published
        self.margin = table.spec.margin
        self.width = (
            120 if self.relative else 240
        )  # a table without published numbers has the room
        ours = [
            (cell, cell.ours)
            for cell in table.cells
            if cell.ours and (not self.relative or cell.published is not None)
        ]
        ends = [
            end - self._origin(cell)
            for cell, estimate in ours
            for end in (estimate.low, estimate.high)
            if end is not None
        ]
        if self.relative:
            means = [estimate.mean - self._origin(cell) for cell, estimate in ours]
            reach = max([2 * self.margin, *map(abs, means)])
            reach = min(max([reach, *map(abs, ends)]), max(reach, 4 * self.margin)) * 1.08 or 1.0
            self.low, self.high = -reach, reach
        else:
            seeds = [seed.values[cell.select] for cell, _ in ours for seed in cell.finished] or [
                0.0
            ]
            pad = 0.25 * (max(seeds) - min(seeds)) or 1.0
            self.low = max(min([*seeds, *ends]), min(seeds) - pad) - 0.04 * pad
            self.high = min(max([*seeds, *ends]), max(seeds) + pad) + 0.04 * pad

    def render(self, cell: CellResult) -> Markup:
        """The strip of one cell; empty where there is nothing to place on the scale."""
        ours = cell.ours
        if ours is None or (self.relative and cell.published is None):
            return Markup("")
        origin, middle = self._origin(cell), HEIGHT / 2
        parts = []
        if self.relative:
            left, right = self._x(-self.margin), self._x(self.margin)
            parts.append(
                f'<rect class="band" x="{left:.1f}" y="1" width="{right - left:.1f}" '
                f'height="{HEIGHT - 2}" rx="2"/>'
            )
            zero = self._x(0.0)
            parts.append(
                f'<line class="zero" x1="{zero:.1f}" x2="{zero:.1f}" y1="1" y2="{HEIGHT - 1}"/>'
            )
        if ours.low is not None and ours.high is not None:
            parts += self._interval(ours.low - origin, ours.high - origin)
        for seed in cell.finished:
            x = self._x(seed.values[cell.select] - origin)
            parts.append(f'<circle class="seed" cx="{x:.1f}" cy="{middle:g}" r="2.2"/>')
        mean = self._x(ours.mean - origin)
        parts.append(
            f'<line class="mean" x1="{mean:.1f}" x2="{mean:.1f}" y1="{middle - 6:g}" '
            f'y2="{middle + 6:g}"/>'
        )
        return _svg(parts, self._label(cell), self.width)

    def _origin(self, cell: CellResult) -> float:
        return (cell.published or 0.0) if self.relative else 0.0

    def _x(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return EDGE + share * (self.width - 2 * EDGE)

    def _interval(self, low: float, high: float) -> list[str]:
        middle = HEIGHT / 2
        left, right = self._x(low), self._x(high)
        parts = [
            f'<line class="interval" x1="{left:.1f}" x2="{right:.1f}" y1="{middle:g}" '
            f'y2="{middle:g}"/>'
        ]
        for x, outside, way in ((left, low < self.low, -1), (right, high > self.high, 1)):
            if outside:
                path = (
                    f"M{x - 3 * way:.1f} {middle - 3:g}L{x + way:.1f} "
                    f"{middle:g}L{x - 3 * way:.1f} {middle + 3:g}"
                )
            else:
                path = f"M{x:.1f} {middle - 3:g}V{middle + 3:g}"
            parts.append(f'<path class="interval" d="{path}"/>')
        return parts

    def _label(self, cell: CellResult) -> str:
        ours = cell.ours
        if ours is None or ours.low is None or ours.high is None:
            return "one value, no interval"
        if self.relative and cell.published is not None:
            low, high = signed(ours.low - cell.published), signed(ours.high - cell.published)
            return f"95 % interval of the difference: {low} to {high}"
        return f"95 % interval: {number(ours.low)} to {number(ours.high)}"


def _svg(parts: Iterable[str], label: str, width: int) -> Markup:
    size = f'width="{width}" height="{HEIGHT}" viewBox="0 0 {width} {HEIGHT}"'
    return Markup(
        f'<svg class="strip" {size} role="img" aria-label="{label}"><title>{label}</title>'
        f"{''.join(parts)}</svg>"
    )
