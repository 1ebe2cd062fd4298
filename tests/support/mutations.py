"""Run directories as bad disks leave them, and what every command then makes of them."""

import contextlib
import io
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from launch import cli
from launch.spec.load import load_spec
from launch.worker.worker import run_one
from tests.support.specs import SPEC, write_spec

DOCUMENTED = {0, 1, 2, 3, 130}
"""Exit statuses, see launch/cli.py."""


class Campaign(NamedTuple):
    """How many faults were tried and survived; what was lost, and what was said badly."""

    tried: int
    survived: int
    badly: list[str]


def flip(data: bytes, draw: random.Random) -> bytes:
    spoilt = bytearray(data)
    for _ in range(draw.choice((1, 1, 3, 20))):
        if spoilt:
            spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
    return bytes(spoilt)


def other_json(data: bytes, draw: random.Random) -> bytes:
    return draw.choice((b"{}", b"[]", b"null", b"0", b'""', b"[{}]", b'{"a": [[]]}', b"{}\n[]\n"))


def spoilt_line(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    lines.insert(
        draw.randrange(len(lines)), draw.choice((b"{", b"null", b"{}", b"\xff\xfe", b"x"))
    )
    return b"\n".join(lines)


BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flipped": flip,
    "emptied": lambda data, draw: b"",
    "cut": lambda data, draw: data[: draw.randrange(len(data) + 1)],
    "zeroed": lambda data, draw: b"\0" * len(data),
    "other JSON": other_json,
    "a spoilt line": spoilt_line,
    "twice": lambda data, draw: data + data,
}
PATHS: dict[str, Callable[[Path], None]] = {
    "removed": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),  # type: ignore[dict-item]
    "unreadable": lambda path: (path.unlink(), path.symlink_to("/proc/self/mem")),  # EIO
    "a dead link": lambda path: (path.unlink(), path.symlink_to("/nowhere/at/all")),
    "a circle": lambda path: (path.unlink(), path.symlink_to(path)),
}


def mutate(run_dir: Path, draw: random.Random) -> str:
    """Spoil one file of a run directory; returns what was done."""
    files = sorted(path for path in run_dir.iterdir() if path.is_file())
    small = [path for path in files if path.suffix in (".json", ".jsonl")]
    path = draw.choice(small if draw.random() < 0.8 else files)
    kind = draw.choice([*BYTES, *BYTES, *PATHS])
    if kind in BYTES:
        path.write_bytes(BYTES[kind](path.read_bytes(), draw))
    else:
        PATHS[kind](path)
    return f"{path.name} {kind}"


def make_template(folder: Path) -> Path:
    """Results of a spec of four trials: finished, interrupted twice (once by a job), failed."""
    spec = load_spec(write_spec(folder))
    runs = folder / "template" / "runs"
    with _results(folder / "template"):
        cli.main(["run", str(spec.path), "--dry-run", "--json"])
        from launch.plan import make_plan
        from launch.runs.create import prepare

        prepare(make_plan([spec], runs).uses, runs)
    for number, trial in enumerate(spec.trials):
        left = iter(range((10**6, 7, 7, 7)[number]))
        run_one(runs / trial.id, lambda left=left: next(left, None) is None)  # type: ignore[misc]
    second, third, fourth = (runs / trial.id for trial in spec.trials[1:])
    job = '{"backend": "slurm", "id": "12_0", "time": 1.0, "name": "rm-a"}\n'
    (third / "jobs.jsonl").write_text(job)
    (second / "resources.json").write_text('{"nodes": 1, "gpus": 1}')
    with (fourth / "journal.jsonl").open("a") as file:
        file.write('{"event": "failed", "time": 2.0, "error": "x", "traceback": null}\n')
    return folder / "template"


@contextlib.contextmanager
def _results(folder: Path) -> Iterator[None]:
    import os

    before = os.environ.get("RM_RESULTS_DIR")
    os.environ["RM_RESULTS_DIR"] = str(folder)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.environ.pop("RM_RESULTS_DIR")
        if before is not None:
            os.environ["RM_RESULTS_DIR"] = before


def said(*words: str) -> tuple[int | str, str]:
    """Exit status of a command, or the traceback that it ends with; and what it printed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            return cli.main(list(words)), out.getvalue()
        except SystemExit as error:
            return f"SystemExit {error.code}", out.getvalue()
        except BaseException:
            return traceback.format_exc(), out.getvalue()


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith((".lease", "log.txt", "cancel"))
    }


def check(results: Path, spec: Path, victim: str, what: str) -> Iterator[str]:
    """What every command says badly of a results folder with one spoilt run directory."""
    runs = results / "runs"
    others = {p.name: content(p) for p in runs.iterdir() if p.name != victim}
    commands = [
        ("status", str(spec)),
        ("status", str(spec), "--json"),
        ("plan", str(spec)),
        ("logs", victim),
        ("logs", victim, "--json"),
        ("cancel", victim),
        ("cancel", str(spec)),
    ]
    for words in commands:
        status, text = said(*words)
        if status not in DOCUMENTED or "Traceback" in text:
            yield f"{what}: {words[0]}: {status}\n{text}"
        if words == commands[0] and not all(name in text for name in others):
            yield f"{what}: status leaves trials out\n{text}"
    (runs / victim / "cancel").unlink(missing_ok=True)
    try:
        answer = run_one(runs / victim, lambda: True)
        if answer["outcome"] not in ("finished", "interrupted", "failed", "busy"):
            yield f"{what}: {answer}"
    except BaseException:
        yield f"{what}: the worker: {traceback.format_exc()}"
    if others != {p.name: content(p) for p in runs.iterdir() if p.name != victim}:
        yield f"{what}: another trial was changed"


def run(folder: Path, count: int, seed: int) -> Campaign:
    """Spoil so many run directories, one after the other, each in fresh results."""
    template, draw = make_template(folder), random.Random(seed)
    names = sorted(path.name for path in (template / "runs").iterdir())
    spec, badly, survived = folder / "small.yaml", list[str](), 0
    assert SPEC
    for number in range(count):
        results = folder / "spoilt"
        shutil.rmtree(results, ignore_errors=True)
        shutil.copytree(template, results)
        victim = draw.choice(names)
        what = f"{number}: {mutate(results / 'runs' / victim, draw)}"
        with _results(results):
            found = list(check(results, spec, victim, what))
        survived += not found
        badly += found
    return Campaign(count, survived, badly)
