"""Event files for TensorBoard, `results/tensorboard/<label> <id>/`: `tensorboard --logdir` shows
them.

A run's file follows from its journal alone, byte by byte: no time or host of the writer is in it.
A mirror that was killed cuts it where it had last been sure and writes the same bytes again, so
that every point is there once and a TensorBoard that reads along notices nothing.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from launch.paths import results_dir
from launch.tracking.followers import Event, Follower, Mark
from launch.tracking.record import CURSOR_METRIC, Point, Record

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event as Entry
    from tensorboard.compat.proto.summary_pb2 import Summary

_PARTS = ("train", "test")


class TensorBoard(Follower):
    """One folder, one event file a run."""

    name = "tensorboard"
    package = "tensorboard"
    place = "FOLDER (default: results/tensorboard)"

    def send(self, found: Record, events: Sequence[Event], mark: Mark) -> Iterator[Mark]:
        at = (
            self._folder(found) / f"events.out.tfevents.{int(found.start / 1000)}.{found.trial_id}"
        )
        size, epoch = int(mark.get("size", 0)), int(mark.get("epoch", 0))
        if not at.is_file() or at.stat().st_size < size:  # somebody has tidied up
            mark, size, epoch = {}, 0, 0
        at.parent.mkdir(parents=True, exist_ok=True)
        with at.open("r+b" if size else "wb") as file:
            file.truncate(size)
            file.seek(size)
            if not size:
                for other in set(at.parent.glob("events.out.*")) - {at}:
                    other.unlink()  # of the journal before --force
            epoch, ended = self._write(
                file, found, epoch, began=not size, ended=bool(mark.get("ended"))
            )
            yield {"size": file.tell(), "epoch": epoch, "ended": ended}

    def _folder(self, found: Record) -> Path:
        root = Path(self.where).expanduser() if self.where else results_dir() / "tensorboard"
        label = re.sub(r"[^\w.+=()-]+", " ", found.name).strip()[:150]
        return root / f"{label} {found.trial_id}"

    def _write(
        self, file: BinaryIO, found: Record, epoch: int, *, began: bool, ended: bool
    ) -> tuple[int, bool]:
        """Write what is missing; returns the last epoch written, and whether the final numbers
        are.
        """
        from tensorboard.compat.proto.event_pb2 import Event as Entry
        from tensorboard.summary.writer.record_writer import RecordWriter

        writer = RecordWriter(file)

        def write(entry: "Entry") -> None:
            writer.write(entry.SerializeToString(deterministic=True))

        if began:
            write(Entry(wall_time=found.start / 1000, file_version="brain.Event:2"))
            write(Entry(wall_time=found.start / 1000, step=0, summary=_text(found)))
        for points in found.points(epoch):
            write(_entry(points))
            epoch = points[0].step
        finals = [] if ended else found.finals()
        if finals:
            write(_entry([point._replace(key=f"final/{point.key}") for point in finals]))
        writer.flush()
        return epoch, ended or bool(finals)


def _entry(points: Sequence[Point]) -> "Entry":
    """The numbers of one epoch under `train/`, `test/` and `run/`, as TensorBoard groups them."""
    from tensorboard.compat.proto.event_pb2 import Event as Entry
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [
        Summary.Value(tag=_tag(point.key), simple_value=point.value)
        for point in points
        if point.key != CURSOR_METRIC
    ]
    first = points[0]
    return Entry(wall_time=first.time / 1000, step=first.step, summary=Summary(value=values))


def _tag(key: str) -> str:
    part, _, rest = key.partition("_")
    return key if "/" in key else f"{part}/{rest}" if part in _PARTS else f"run/{key}"


def _text(found: Record) -> "Summary":
    """What the trial is, for TensorBoard's page of texts: its values as a table."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.util.tensor_util import make_tensor_proto

    lines = [f"| {key} | {value} |" for key, value in found.params]
    table = "\n".join([f"**{found.name}** ({found.trial_id})\n", "| | |", "|---|---|", *lines])
    value = Summary.Value(
        tag="trial",
        metadata=create_summary_metadata("trial", "what was trained"),
        tensor=make_tensor_proto(table.encode()),
    )
    return Summary(value=[value])
