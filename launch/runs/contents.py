"""What the small files of a run directory hold, checked as it is read: one that is not what a
worker leaves is `Damaged`, with file and line.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Fault = Callable[[object], str | None]
"""Why a line is not what its file holds; None where it is."""


class Damaged(ValueError):
    """A file of a run directory is not what a worker, whole or killed, leaves; names the line."""


def why(error: OSError | ValueError) -> str:
    """A file that cannot be read, in one line."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Give an error of reading its file's name, as the system gives it to one of opening."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise


def read_json(path: str) -> Any:
    """The content of a file of JSON; OSError or Damaged."""
    with reading(path), open(path, "rb") as file:  # noqa: PTH123  a Path takes twice as long
        data = file.read()
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path}: not JSON ({error})") from None


def read_json_if_there(path: str) -> Any:
    """The same; None where there is no file."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return None


def parse_lines(
    path: str, lines: Sequence[bytes], fault: Fault, offset: int = 0, *, strict: bool = True
) -> list[dict[str, Any]]:
    """Lines of JSON objects that begin at a byte offset of a file. `strict`: Damaged names one
    that is none; otherwise it is left out.
    """
    found = []
    for i, line in enumerate(lines):
        if not line:
            continue
        try:
            content = json.loads(line)
            reason = fault(content)
        except (ValueError, RecursionError) as error:
            reason = f"not JSON ({error})"
        if reason is None:
            found.append(content)
        elif strict:
            with open(path, "rb") as file:  # noqa: PTH123
                before = file.read(offset).count(b"\n")
            raise Damaged(f"{path}:{before + i + 1}: {reason}")
    return found


def no_use(line: object) -> str | None:
    """Of uses.jsonl."""
    names = ("spec", "profile", "row", "label")
    whole = isinstance(line, dict) and all(name in line for name in names)
    return None if whole else "not a use"


def no_job(line: object) -> str | None:
    """Of jobs.jsonl."""
    if not isinstance(line, dict) or any(name not in line for name in ("backend", "id", "time")):
        return "not a job"
    return None if isinstance(line["time"], int | float) else f"time is {line['time']!r}"


def is_resources(found: object) -> bool:
    """Of resources.json."""
    return (
        isinstance(found, dict)
        and found.keys() == {"nodes", "gpus"}
        and all(isinstance(count, int) and count >= 0 for count in found.values())
    )
