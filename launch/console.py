"""How things are said to people: what is printed never ends a command, wherever it goes."""

import codecs
import io
import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def say(text: str) -> None:
    """One line for people, on standard error. That nobody reads it (`2>&1 | head`) stops no
    training.
    """
    with suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """The answer of a command, on standard output. A reader that has left, such as `head`, is no
    reason to end differently.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        drop_output()


def counted(number: int, noun: str) -> str:
    """`1 trial`, `4 trials`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def prepare() -> None:
    """Make the standard streams bear anything: what was closed swallows it, and a terminal of
    another encoding gets `\\u00b7`, which is right in JSON too.
    """
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a closed 0, 1 or 2 would be the number of the next file, and be written to
    os.close(spare)
    codecs.register_error("escape", _escape)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="escape")


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    escaped = (f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
    return "".join(escaped), error.end


def reader_is_gone() -> bool:
    """Whether what reads our standard output has left, as `| head` does."""
    watcher = select.poll()
    try:
        watcher.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # it is no file
        return False
    return bool(watcher.poll(0))


def drop_output() -> None:
    """Nobody reads it any more."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def has_colours() -> bool:
    """Whether standard output is a terminal, and NO_COLOR does not ask for plain text."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def rich_console(**options: Any) -> "Console":
    """Rich's, for standard output; where the reader has left it says so as `print` does, instead
    of ending the program.
    """
    from rich.console import Console  # a sixth of what `status` takes

    class _Console(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return _Console(highlight=False, **options)
