"""The append-only events of one run, one JSON object a line, readable after any crash."""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rm.files import UNGUARDED, Permit, append_to, cut_torn_line


class Journal:
    """Appends events to `journal.jsonl`; a torn last line, left by a crash, is cut off when it is
    opened.

    A silent journal writes nothing: of several processes that train together, the first one keeps
    it. A single write to an O_APPEND file for each event. `epoch` events reach the disk with the
    next durable event: what they say stands in the checkpoint as well, so a power cut loses
    nothing.
    """

    def __init__(self, path: Path, *, silent: bool = False, permit: Permit = UNGUARDED) -> None:
        self.path, self.silent, self.permit = path, silent, permit
        permit.check()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        if not silent:
            cut_torn_line(self._file)

    def append(self, event: str, *, durable: bool = True, **fields: Any) -> None:
        """Write one event with the time (seconds since 1970); durable: fsync before returning."""
        if self.silent:
            return
        self.permit.check()
        values = {"event": event, "time": round(time.time(), 3), **fields}
        append_to(self._file, json.dumps(values, ensure_ascii=False), self.path)
        if durable:
            os.fsync(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole events of a journal; an empty list where there is none. ValueError names the line
    that is none.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    events = []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line) if line else {"event": ""}
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON ({error})") from None
        if not isinstance(event, dict) or "event" not in event:
            raise ValueError(f"{path}:{number}: not an event")
        events += [event] if line else []
    return events
