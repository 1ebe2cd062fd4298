"""Numbers and sentences as every rendering of a table prints them, the page too."""

from analysis.compare import INSIDE, OUTSIDE, Estimate
from analysis.table import (
    SELECTION_NAMES,
    CellResult,
    ClaimTest,
    Table,
    companion_selection,
)
from launch.spec.power import MOST_SEEDS
from rm.metrics import Metric

MARKS = {
    "reproduced": "✓",
    "consistent": "≈",
    "differs": "≠",
    INSIDE: "≈",
    OUTSIDE: "≠",
    "missing": "○",
    "not comparable": "–",
}
CLAIM_MARKS = {"holds": "✓", "reversed": "✗", "undecided": "?", "missing": "○"}


def number(value: float | None, digits: int = 2) -> str:
    """A value as it stands in a table; a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign, the minus as a minus."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def mean_std(estimate: Estimate | None) -> str:
    """mean ± standard deviation, without the latter for one value."""
    if estimate is None:
        return "–"
    mean = number(estimate.mean)
    return mean if estimate.std is None else f"{mean} ± {number(estimate.std)}"


def p_value(p: float | None) -> str:
    """A p-value as journals print it."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def share(value: float | None) -> str:
    """A probability in percent; a dash for none."""
    return "–" if value is None else f"{100 * value:.0f} %"


def seeds_for_power(claim: ClaimTest) -> str:
    """With how many seeds a claim would have a power of 80 %."""
    result = claim.result
    if result.power is None:
        return "–"
    return f"> {MOST_SEEDS}" if result.seeds_needed is None else str(result.seeds_needed)


def seed_count(cell: CellResult) -> str:
    """How many of the cell's seeds have finished: "3" or "2 of 3"."""
    done, wanted = len(cell.finished), len(cell.seeds)
    return str(done) if done == wanted else f"{done} of {wanted}"


def in_unit(amount: str, metric: Metric) -> str:
    """An amount by which two values of a metric differ, with its unit: "0.30 percentage points",
    or the bare number where the metric has no unit.
    """
    unit = "percentage points" if metric.unit == "%" else metric.unit
    return f"{amount} {unit}".rstrip()


def selection_title(select: str) -> str:
    """The head of the column of a selection."""
    return SELECTION_NAMES[select].capitalize()


def caption(table: Table) -> str:
    """The sentence under a table: what its numbers are."""
    metric = table.metric
    parts = [f"{metric.title}, mean ± standard deviation over seeds (n − 1)"]
    if table.has_published:
        margin = in_unit(f"±{table.spec.margin:g}", metric)
        why = f" ({table.spec.margin_why})" if table.spec.margin_why else ""
        parts.append(
            f"margin {margin}{why}; published numbers without spread are treated as exact"
        )
    optimism = table.selection_optimism
    if optimism is not None:
        gain = in_unit(number(optimism.mean), metric)
        parts.append(
            "selection optimism, by which the best epoch on the test set is better than the last "
            f"one: {gain} on average over {optimism.n} runs"
        )
    return "; ".join(parts) + "."


def authors_note(cell: CellResult) -> str:
    """What the authors' released logs say of a cell: "authors' logs: 2.35 best epoch, 2.59 last
    epoch (n = 3)"; else nothing.
    """
    if not cell.authors:
        return ""
    results = ", ".join(
        f"{number(estimate.mean)} {SELECTION_NAMES[name]}"
        for name, estimate in cell.authors.items()
    )
    return f"authors' logs: {results} (n = {max(one.n for one in cell.authors.values())})"


def notes(table: Table) -> list[str]:
    """A line for each cell whose word needs one, and one line for all cells without any finished
    seed.
    """
    trained = [cell for cell in table.cells if cell.seeds]
    empty = [cell for cell in trained if not any(s.state == "finished" for s in cell.seeds)]
    silent = set(map(id, empty))
    lines = [
        f"{' · '.join(cell.labels)}: {note}"
        for cell in table.cells
        for note in ("" if id(cell) in silent else table.note(cell), authors_note(cell))
        if note
    ]
    if empty and len(empty) == len(trained):
        return [*lines, "no seed has finished yet"]
    names = "; ".join(" · ".join(cell.labels) for cell in empty)
    return [*lines, f"no finished seed yet: {names}"] if empty else lines


def companion_title(table: Table) -> str:
    """The head of the column beside ours."""
    return selection_title(companion_selection(table.spec.metric.select))
