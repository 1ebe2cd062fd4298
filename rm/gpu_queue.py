"""Trains the trials of a queue folder on one GPU, several side by side, for so many minutes, and
packs what came out of it.

    python -m rm.gpu_queue QUEUE --minutes 9 --side-by-side 2   # exit status 0 all done, 1 some
    failed, 2 bad input, 75 some left

The folder is written by `python -m launch.gpu_queue plan` and needs nothing but `rm` and what it
imports: `queue.json`, an order, and `runs/<id>/trial.json`. As soon as epochs have been measured,
only what fits into the time is kept going or started; before the end all are stopped with a
checkpoint, and the same command goes on with them. The archives in `QUEUE/back` hold journals,
results, provenance and logs, no weights, and are at most 16 MiB each.
"""

import argparse
import fcntl
import json
import math
import signal
import sys
from pathlib import Path
from typing import Any

from rm.parcel import pack
from rm.side_by_side import INTERRUPTED, Entry, Runner, say


class QueueError(Exception):
    """The folder or the command line asks for something that is not there; exit status 2."""


def load(folder: Path) -> tuple[dict[str, Any], list[Entry]]:
    """The queue of a folder, in its order."""
    try:
        queue: dict[str, Any] = json.loads((folder / "queue.json").read_text(encoding="utf-8"))
        entries = [_entry(folder, item) for item in queue["trials"]]
    except (OSError, ValueError, KeyError) as error:
        raise QueueError(
            f"{folder}: not a queue ({type(error).__name__}: {error}); `python -m "
            f"launch.gpu_queue plan --out {folder}` writes one"
        ) from None
    return queue, entries


def _entry(folder: Path, item: dict[str, Any]) -> Entry:
    run_dir = folder / "runs" / item["id"]
    trial = json.loads((run_dir / "trial.json").read_text(encoding="utf-8"))
    kind = json.dumps(
        [trial["backbone"], trial["dataset"], {**trial["train"], "epochs": 0}], sort_keys=True
    )
    entry = Entry(item["id"], item["label"], run_dir, trial["train"]["epochs"], kind)
    if (run_dir / "result.json").exists():
        entry.outcome = "finished"
    return entry


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m rm.gpu_queue`."""
    given = _parser().parse_args(arguments)
    try:
        queue, entries = load(given.queue)
        minutes = queue["minutes"] if given.minutes is None else given.minutes
        with (given.queue / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise QueueError(f"{given.queue}: another process works on this queue") from None
            if minutes:
                device = given.device or _gpu()
                runner = Runner(
                    entries, given.side_by_side, seconds=60 * minutes, later=60 * given.more_minutes,
                    margin=given.margin_seconds, device=device,
                )  # fmt: skip
                signal.signal(signal.SIGTERM, runner.stop)
                signal.signal(signal.SIGINT, runner.stop)
                runner.run()
            outcomes = {
                e.id: {
                    "outcome": e.outcome,
                    "epoch": e.done(),
                    "epochs": e.epochs,
                    "seconds_per_epoch": e.pace(),
                }
                for e in entries
            }
            manifest = {"queue": queue, "outcomes": outcomes}
            for line in pack(
                given.queue, manifest, given.out or given.queue / "back", given.with_checkpoints
            ):
                say(line)
    except QueueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    words = [entry.outcome for entry in entries]
    say(
        ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
        or "the queue is empty"
    )
    return 1 if "failed" in words else 0 if set(words) <= {"finished"} else INTERRUPTED


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise QueueError("torch finds no GPU here; --device cpu trains on the CPU all the same")
    return "cuda"


def _minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"must be a number from 0 on, found '{text}'")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rm.gpu_queue", description="Train what fits into some minutes on one GPU."
    )
    parser.add_argument(
        "queue", type=Path, metavar="QUEUE", help="the folder that `launch.gpu_queue plan` wrote"
    )
    parser.add_argument(
        "--minutes",
        type=_minutes,
        help="for everything, packing included (default: the plan's); 0: pack only",
    )
    parser.add_argument(
        "--more-minutes", type=_minutes, default=0.0,
        help="that later calls will have for what is left in this folder; inf where it stays "
             "(default: 0)",
    )  # fmt: skip
    parser.add_argument(
        "--side-by-side", type=int, choices=range(1, 17), default=2, metavar="N", help="default: 2"
    )
    parser.add_argument(
        "--margin-seconds",
        type=_minutes,
        default=20.0,
        help="for checkpoints and packing (default: 20)",
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: the GPU")
    parser.add_argument("--out", type=Path, help="where archives go (default: QUEUE/back)")
    parser.add_argument(
        "--with-checkpoints", action="store_true", help="also an archive for each unfinished "
                                                        "trial, where 16 MiB are enough"
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
