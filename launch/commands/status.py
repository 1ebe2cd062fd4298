"""`status`: how every trial of specs stands, from run directories, leases, journals and the
scheduler.
"""

import argparse
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from launch import backends, console
from launch.commands import add_selection, load_specs
from launch.paths import runs_dir
from launch.plan import Plan, Planned, make_plan
from launch.runs.status import StatusReader, TrialStatus, describe

HELP = "print how every trial stands: where it runs, how far it is, why it failed"
REFRESH_SECONDS = 2.0
_HEADER = (
    "spec",
    "row",
    "seed",
    "trial",
    "state",
    "epoch",
    "left",
    "step",
    "loss",
    "test",
    "where",
)
_WITHIN = slice(7, 10)
"""The columns on what is trained now: left out where nothing is, or where there is no room."""
_STYLES = {
    "finished": ("green", 32),
    "failed": ("red", 31),
    "lost": ("red", 31),
    "damaged": ("red", 31),
    "refused": ("red", 31),
    "blocked": ("red", 31),
    "interrupted": ("yellow", 33),
    "running": ("cyan", 36),
}
_DIM = ("dim", 2)
"""Of a state: what rich calls its style, and the terminal's code for it."""
_COMMITTED = "committed"
"""Where a trial is that came with the repository, finished."""
_LIVELY = ("waiting", "running", "interrupted", "failed")
_URGENT = (
    "running",
    "failed",
    "lost",
    "damaged",
    "blocked",
    "interrupted",
    "refused",
    "waiting",
    "stopped",
    "finished",
)
"""What --watch shows first where the screen is too small for all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)
    parser.add_argument(
        "--watch", action="store_true", help="go on until nothing is running or waiting"
    )


class Row(NamedTuple):
    """One use of one trial, and how the trial stands."""

    use: Planned
    status: TrialStatus

    @property
    def state(self) -> str:
        """What the table says. What the plan knows better: what is refused, blocked by a parent,
        or was stopped for good, waits for nothing, and its job is not missed.
        """
        if self.status.state == "lost" and self.use.state == "waiting" and self.use.reason:
            return "waiting"  # for a parent, with which SLURM has removed its job
        idle = self.status.state in ("waiting", "interrupted", "lost")
        return self.use.state if idle and self.use.state not in _LIVELY else self.status.state

    def cells(self) -> tuple[str, ...]:
        use, now = self.use, self.status
        left = console.duration(now.seconds_left) if now.seconds_left is not None else ""
        said = [f"job {now.job}" if now.job else "", now.where, now.note]
        said += [use.reason or ""] if self.state == use.state else []
        return (
            use.spec.title_name,
            use.row,
            str(use.trial.seed),
            use.trial.id,
            self.state,
            self._progress(),
            left,
            f"{now.step}/{now.steps}" if now.steps else "",
            f"{now.loss:.3f}" if now.loss is not None else "",
            f"{now.tested[1]:.4g}" if now.tested and self.state == "running" else "",
            ", ".join(filter(None, said)),
        )

    def _progress(self) -> str:
        """`12/200`, or how many points a probe has measured."""
        now, epochs = self.status, self.use.trial.epochs
        if not epochs:
            return f"{now.points} points" if now.points else ""
        return f"{now.epoch}/{epochs}" if now.epoch or self.state == "running" else ""

    def to_json(self, runs: Path) -> dict[str, Any]:
        use = self.use
        return {
            "id": use.trial.id,
            "spec": use.spec.name,
            "row": use.row,
            "seed": use.trial.seed,
            **self.status._asdict(),
            "state": self.state,
            "epochs": use.trial.epochs,
            "parents": list(use.trial.parents),
            "run_dir": f"{runs}/{use.trial.id}",
        }


def run(args: argparse.Namespace) -> int:
    specs = load_specs(args)
    reader = StatusReader(runs_dir(), backends.get)
    plan = make_plan(specs, runs_dir(), args.where, reader.state, data=False)
    rows = rows_of(plan, reader)
    if args.watch and not args.json:
        _watch(plan, rows)
    else:
        console.show(to_json(rows) if args.json else "\n".join(lines(rows)))
    return 0


def rows_of(plan: Plan, reader: StatusReader) -> list[Row]:
    """Every use of every trial with its status; each trial is looked at, and asked about,
    once.
    """
    epochs = {name: use.trial.epochs for name, use in plan.unique.items()}
    done = {name for name, use in plan.unique.items() if use.state == "finished"}
    runs = runs_dir()
    found = reader.statuses(
        {runs / name: count for name, count in epochs.items() if name not in done}
    )
    statuses = {run_dir.name: status for run_dir, status in found.items()}
    statuses |= {
        name: TrialStatus(
            "finished", _COMMITTED if name in plan.committed else "", epoch=epochs[name]
        )
        for name in done
    }
    for name, number in plan.former.items():
        if name in statuses and not statuses[name].note:
            statuses[name] = statuses[name]._replace(note=f"committed of numerics {number}")
    return [Row(use, statuses[use.trial.id]) for use in _parents_first(plan)]


def _parents_first(plan: Plan) -> Sequence[Planned]:
    """As the specs have them, but what others start from before these."""
    unique, depths = plan.unique, dict[str, int]()

    def depth(name: str) -> int:
        if name not in depths:
            parents = unique[name].trial.parents if name in unique else ()
            depths[name] = 1 + max(map(depth, parents), default=-1)
        return depths[name]

    return sorted(plan.uses, key=lambda use: depth(use.trial.id))


def to_json(rows: Sequence[Row]) -> str:
    runs = runs_dir()
    return json.dumps(
        {"trials": [row.to_json(runs) for row in rows], "counts": _counts(rows)},
        indent=1,
        ensure_ascii=False,
    )


def _counts(rows: Sequence[Row]) -> Counter[str]:
    return Counter({row.use.trial.id: row.state for row in rows}.values())


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """The table and its sum, aligned; coloured, and cut to its width, on a terminal.

    Not by rich, which takes seconds for ten thousand rows.
    """
    terminal, colours = sys.stdout.isatty(), console.has_colours()
    width = shutil.get_terminal_size().columns if terminal else None
    table = _table(rows, width)
    widths = _widths(table)
    widths = widths if width is None else fitted(widths, width)
    for i, cells in enumerate(table):
        text = "  ".join(
            cell.ljust(size) if len(cell) <= size else cell[: size - 1] + "…"
            for cell, size in zip(cells, widths, strict=True)
        ).rstrip()
        text = text if width is None or len(text) <= width else text[: width - 1] + "…"
        code = _STYLES.get(rows[i - 1].state, _DIM)[1] if colours and i else None
        yield text if code is None else f"\x1b[{code}m{text}\x1b[0m"
    yield summary(rows)


def _table(rows: Sequence[Row], width: int | None) -> list[tuple[str, ...]]:
    """The header and all cells, without the columns within epochs where these have no place."""
    table = [_HEADER, *(row.cells() for row in rows)]
    needed = sum(_widths(table)[: _WITHIN.stop]) + 2 * (_WITHIN.stop - 1)
    if (width is None or needed <= width) and any(any(cells[_WITHIN]) for cells in table[1:]):
        return table
    return [(*cells[: _WITHIN.start], *cells[_WITHIN.stop :]) for cells in table]


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*table, strict=True)]


def fitted(widths: Sequence[int], width: int) -> list[int]:
    """The columns' widths on a narrow terminal: the row's name and the spec's are shortened before
    an id or a state is cut; what is left beyond them is.
    """
    found = list(widths)
    needed = sum(found[:7]) + 2 * 6  # all but `where`, which may be cut
    for column, least in ((1, 14), (0, 8)):
        less = min(max(needed - width, 0), max(found[column] - least, 0))
        found[column] -= less
        needed -= less
    return found


def summary(rows: Sequence[Row]) -> str:
    unique = {row.use.trial.id: row for row in rows}
    shared = len(rows) - len(unique)
    reuse = f" ({len(rows)} cells × seeds, {shared} of them shared)" if shared else ""
    committed = sum(row.status.where == _COMMITTED for row in unique.values())
    origin = (
        f" ({committed} of the finished ones committed in results/reproduced)" if committed else ""
    )
    return f"{console.counted(len(unique), 'trial')}{reuse}: {describe(_counts(rows))}{origin}"


def _watch(plan: Plan, rows: list[Row]) -> None:
    """Until nothing is running or waiting: live on a terminal, else a line whenever the sum
    changes.
    """
    try:
        if sys.stdout.isatty():
            _watch_live(plan, rows)
            return
        said = ""
        for now in _looks(plan, rows):
            if summary(now) != said:
                said = summary(now)
                print(f"{time.strftime('%H:%M:%S')} {said}", flush=True)
    except KeyboardInterrupt:
        return


def _looks(plan: Plan, rows: list[Row]) -> Iterator[list[Row]]:
    """The rows, again and again; what is finished is not looked at again."""
    while True:
        yield rows
        if not any(row.state in ("running", "waiting") for row in rows):
            return
        time.sleep(REFRESH_SECONDS)
        finished = {row.use.trial.id: row.status for row in rows if row.state == "finished"}
        others = {
            row.use.trial.id: row
            for row in rows_of(
                _without(plan, set(finished)), StatusReader(runs_dir(), backends.get)
            )
        }
        rows = [
            Row(use, finished.get(use.trial.id) or others[use.trial.id].status)
            for use in plan.uses
        ]


def _without(plan: Plan, ids: set[str]) -> Plan:
    return Plan(tuple(use for use in plan.uses if use.trial.id not in ids), plan.committed)


def _urgency(row: Row) -> int:
    return _URGENT.index(row.state) if row.state in _URGENT else len(_URGENT)


def _watch_live(plan: Plan, rows: list[Row]) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    screen = console.rich_console()
    with Live(console=screen, auto_refresh=False) as live:
        for now in _looks(plan, rows):
            room = max(1, screen.height - 4)
            ordered = now if len(now) <= room else sorted(now, key=_urgency)
            header, *cells = _table(ordered[:room], screen.width)
            table = Table(*header, box=None, header_style="bold", pad_edge=False)
            for row, texts in zip(ordered[:room], cells, strict=True):
                style = _STYLES.get(row.state, _DIM)[0]
                table.add_row(
                    *(Text(text, style, no_wrap=True, overflow="ellipsis") for text in texts)
                )
            more = [Text(f"… and {describe(_counts(ordered[room:]))}")] if ordered[room:] else []
            live.update(
                Group(table, *more, Text(f"{time.strftime('%H:%M:%S')} {summary(now)}")),
                refresh=True,
            )
