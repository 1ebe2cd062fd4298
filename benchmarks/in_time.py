"""Trains as many trials side by side as end within a given time, in order of preference.

python -m benchmarks.in_time FOLDER... --seconds 540 --out OUT [--most 4] [--images-per-second P]

Each FOLDER is an unpacked archive of `run.py export` with one trial. As many begin as the
throughput P, if it is known, promises room for. From their measured pace it is seen whether all
will end; where they would not, the last one is stopped (with a checkpoint) and leaves its share of
the GPU to those before it. Where one has ended, the next begins, for as far as it comes. The same
command in the same folders goes on from there. What came of each is packed into
OUT/<name of its folder>.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.side_by_side import ends

EPOCHS_SEEN = 3
"""That a pace is taken from, after one to warm up."""
RESERVE_SECONDS = 12.0
"""For a trial's last checkpoint and for packing its records."""
GENEROUS = 1.15
"""Side by side, trials may reach more than one alone: so much more is tried."""
WORTH_A_START = 45.0
"""Seconds that must be left for another trial to begin."""
IMAGES = 50_000  # of CIFAR's training set


class Launch:
    """The local backend on one folder: a trial, from its start to its packed records."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, folder.name
        trials = sorted(folder.rglob("trial.json"))
        if len(trials) != 1:
            raise ValueError(f"{folder}: {len(trials)} trials are in it, not 1")
        self.run_dir = trials[0].parent
        self.epochs = int(json.loads(trials[0].read_text(encoding="utf-8"))["train"]["epochs"])
        self.code = next(path.parent for path in sorted(folder.rglob("launch")) if path.is_dir())
        self.process: subprocess.Popen[bytes] | None = None
        self.since = 0
        """Epochs that had ended when the others beside it last changed."""

    def start(self, seconds: float, out: Path, words: Sequence[str]) -> None:
        """By the code that is in the folder, which is the one that its manifest tells of."""
        self.since = len(ends(self.run_dir))
        options = ["--deadline", f"{seconds / 60:.3f}", "--out", str(out / self.name), *words]
        paths = [str(self.code), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "launch.backends.local", ".", *options],
            cwd=self.code,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # a terminal's Ctrl-C is this command's, which stops them once
        )

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def finished(self) -> bool:
        return (self.run_dir / "result.json").exists()

    @property
    def epochs_left(self) -> int:
        return self.epochs - len(ends(self.run_dir))

    def seconds_left(self) -> float | None:
        """Until its last epoch ends at the present pace; None while that is not known."""
        times = ends(self.run_dir)[self.since :]
        if len(times) <= EPOCHS_SEEN:
            return None
        pace = (times[-1] - times[0]) / (len(times) - 1)
        return (self.epochs - self.since - len(times)) * pace - (time.time() - times[-1])

    def stop(self) -> None:
        """As Ctrl-C: a checkpoint, and its records packed."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()


Begin = Callable[[Launch, float], None]
"""Starts a trial for so many seconds."""


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def promised(launches: Sequence[Launch], seconds: float, images_per_second: float | None) -> int:
    """How many of them, from the first on, are worth beginning with."""
    if images_per_second is None:
        return min(2, len(launches))
    room, count = GENEROUS * seconds * images_per_second / IMAGES, 0
    for launch in launches:
        room -= launch.epochs_left
        if room < 0:
            break
        count += 1
    return max(1, count)


def train(launches: Sequence[Launch], count: int, end: float, begin: Begin) -> None:
    """`count` of them side by side until all are done; whoever would keep an earlier one from its
    end is stopped.
    """
    waiting, said = list(launches), time.monotonic()
    while True:
        running = [launch for launch in launches if launch.runs]
        left = end - time.monotonic()
        while waiting and len(running) < count and left > WORTH_A_START:
            running.append(waiting.pop(0))
            begin(running[-1], left)
        if not running:
            return
        time.sleep(1.0)
        known = {launch.name: launch.seconds_left() for launch in running if launch.runs}
        if any(left is None for left in known.values()) or not known:
            continue
        longest = max(left for left in known.values() if left is not None)
        if time.monotonic() - said >= 30:
            said = time.monotonic()
            paces = ", ".join(f"{name} ends in {left:.0f} s" for name, left in known.items())
            say(f"{paces}; {end - time.monotonic():.0f} s are left")
        if len(known) > 1 and time.monotonic() + longest + RESERVE_SECONDS > end:
            last = [launch for launch in running if launch.runs][-1]
            say(f"all would end in {longest:.0f} s: {last.name} is stopped for the others")
            last.stop()
            count -= 1
            for launch in running:
                launch.since = len(ends(launch.run_dir))


def main() -> int:
    """The command; exit status 0 if any trial finished, 75 if none, 130 by Ctrl-C, 2 for a folder
    that is none of `export`'s.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=4)
    parser.add_argument("--images-per-second", type=float, help="of one trial, measured before")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    try:
        launches = [Launch(folder.resolve()) for folder in args.folders]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    launches = [launch for launch in launches if not launch.finished]
    if not launches:
        say("all of them had finished before")
        return 0
    count = min(args.most, promised(launches, args.seconds, args.images_per_second))
    names = " and ".join(launch.name for launch in launches[:count])
    say(f"{names}{' side by side' if count > 1 else ''}, {args.seconds:.0f} s")
    words = ["--workers", "1"] if args.device == "cpu" else []
    out = args.out.resolve()
    try:
        train(launches, count, end, lambda launch, seconds: launch.start(seconds, out, words))
    except KeyboardInterrupt:
        for launch in launches:
            launch.stop()
        return 130
    finished = [launch.name for launch in launches if launch.finished]
    say(f"finished: {', '.join(finished) or 'none'}")
    return 0 if finished else 75


if __name__ == "__main__":
    sys.exit(main())
