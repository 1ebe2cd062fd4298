"""Specs as people break them: the repository's own, changed at random, each seed the same again.

    python -m tests.support.mutated_specs 2000 [SEED]

Every one must load, plan and be selected from, or be refused with a place for each mistake.
"""

import contextlib
import io
import os
import random
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.trials import ROOT

VALUES = (
    *("", "null", "~", "[]", "{}", "-1", "0", "010", "1e400", ".nan", "-.inf", "true", "no"),
    *("2020-01-01", "12:30:00", "0x1F", "1_000", "!!python/name:os.system", "!!binary x", "<<"),
    *("&a [*a]", "*a", "? x", "| \n  text", "'", '"', "[red]x[/]", "../../etc", "a\\b", "ω", "🜁"),
    *("99999999999999999999", "[1, 1.0, true]", "{a: {b: {c: d}}}", "[[[[[]]]]]", "x" * 300),
    *("resnet18", "cutmx", "{name: sgd, lr: 0.1}", "{from: table5, row: x}", "{claim: 1, of: 2}"),
    *("[0.1, 0.10]", "{trial: {}}", "%TAG ! tag:x,2000:", "---", "...", "#", "@", "`", "{{x}}"),
)
KEYS = ("seeds", "axes", "rows", "trial", "init", "search", "figures", "claims", "profiles")


class Failure(NamedTuple):
    """A spec that was not survived."""

    seed: int
    text: str
    why: str


def mutate(text: str, choose: random.Random) -> str:
    """One to four changes of a spec."""
    for _ in range(choose.randint(1, 4)):
        text = choose.choice(_CHANGES)(text, choose)
    return text


def _characters(text: str, choose: random.Random) -> str:
    at = choose.randrange(len(text) + 1)
    new = choose.choice([*"[]{}:,#&*!|>'\"%@`-?\t\n \\", "\0", "\ufeff", "é", text[at : at + 9]])
    return text[:at] + new + text[at + choose.choice((0, 0, 1, 5)) :]


def _lines(text: str, choose: random.Random) -> str:
    lines = text.split("\n")
    at, other = choose.randrange(len(lines)), choose.randrange(len(lines))
    kind = choose.randrange(5)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[other])
    elif kind == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at] = " " * choose.randint(1, 6) + lines[at]
    else:
        lines[at] = lines[at].lstrip()
    return "\n".join(lines)


def _value(text: str, choose: random.Random) -> str:
    """What stands behind a colon, or an item of a list."""
    places = [i for i, char in enumerate(text) if char in ":,[{" and text[i + 1 : i + 2] in " "]
    if not places:
        return text
    at = choose.choice(places) + 1
    end = min((i for char in ",]}\n" if (i := text.find(char, at)) > 0), default=len(text))
    return f"{text[:at]} {choose.choice(VALUES)}{text[end:]}"


def _key(text: str, choose: random.Random) -> str:
    lines = text.split("\n")
    at = choose.randrange(len(lines))
    key, colon, rest = lines[at].partition(":")
    if colon:
        kept = len(key) - len(key.lstrip())
        other = choose.choice([*KEYS, *VALUES[:20], key.strip()[1:]])
        lines[at] = f"{' ' * kept}{other}:{rest}"
    return "\n".join(lines)


def _cut(text: str, choose: random.Random) -> str:
    return text[: choose.randrange(len(text) + 1)]


_CHANGES: tuple[Callable[[str, random.Random], str], ...] = (
    *(_characters, _lines, _value, _value, _value, _key, _cut),
)


def failures(count: int, first: int = 0) -> Iterator[Failure]:
    """Try so many; yields those that were not survived."""
    originals = sorted((ROOT / "experiments").rglob("*.yaml"))
    texts = [path.read_text(encoding="utf-8") for path in originals]
    with tempfile.TemporaryDirectory() as folder, _results(Path(folder) / "results"):
        for seed in range(first, first + count):
            choose = random.Random(seed)
            text = mutate(choose.choice(texts), choose)
            path = Path(folder) / "spec.yaml"
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
            if why := _why_not(path, choose):
                yield Failure(seed, text, why)


@contextlib.contextmanager
def _results(folder: Path) -> Iterator[None]:
    before = os.environ.get("RM_RESULTS_DIR")
    os.environ["RM_RESULTS_DIR"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("RM_RESULTS_DIR")
        if before is not None:
            os.environ["RM_RESULTS_DIR"] = before


def _why_not(path: Path, choose: random.Random) -> str | None:
    """Why a spec was not survived: a traceback, or a message without its place."""
    from launch import cli

    words = choose.choice((["plan"], ["plan", "--json"], ["status"], ["run", "--dry-run"]))
    more = choose.choice(([], [], ["--profile", "smoke"], ["--where", "seed=0"], ["--seeds", "1"]))
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main([words[0], str(path), *words[1:], *more])
    except (Exception, SystemExit):
        return traceback.format_exc()
    said = err.getvalue().splitlines()
    if status == 2 and not all(line.startswith((f"{path}:", "error: ")) for line in said):
        return f"exit 2 with {said}"
    return None if status in (0, 2, 3) and (status != 2 or said) else f"exit {status}: {said}"


def main() -> int:
    """The command."""
    count = int(sys.argv[1])
    bad = list(failures(count, int(sys.argv[2]) if len(sys.argv) > 2 else 0))
    for seed, text, why in bad:
        print(f"== seed {seed}\n{text}\n-- {why}")
    print(f"{count} tried, {count - len(bad)} survived, {len(bad)} said badly")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
