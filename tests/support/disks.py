"""Real file systems that fill up, lose power or turn read-only: ext4 on a loop device, tmpfs.
Mounting needs root.
"""

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.trials import PATIENCE

SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN of linux/ext4.h."""
WITHOUT_LOG_FLUSH = 2
"""What was not synced is gone, as when the power is."""


def _call(*words: object) -> None:
    subprocess.run([*map(str, words)], check=True, capture_output=True, text=True)


def can_mount() -> bool:
    """Whether this process may mount a loop device."""
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        return False
    done = subprocess.run(["losetup", "--find"], capture_output=True, check=False)
    return done.returncode == 0


class Ext4:
    """An ext4 of 256 MB in a file, mounted at `place`."""

    def __init__(self, folder: Path) -> None:
        self.image, self.place = folder / "disk.img", folder / "disk"
        self.place.mkdir()
        with self.image.open("wb") as file:
            file.truncate(256 << 20)
        _call("mkfs.ext4", "-q", "-F", self.image)
        self.mount()

    def mount(self) -> None:
        # Its own regular flush would save, by luck, what nobody has synced.
        _call("mount", "-o", "loop,commit=600", self.image, self.place)

    def cut_power(self) -> None:
        handle = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", WITHOUT_LOG_FLUSH))
        finally:
            os.close(handle)

    def holders(self) -> list[int]:
        """Processes that work there, or have a file of it open."""
        found, inside = [], f"{self.place}/"
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                places = [entry / "cwd", *(entry / "fd").iterdir()]
                if any(f"{place.readlink()}/".startswith(inside) for place in places):
                    found.append(int(entry.name))
        return found

    def unmount(self) -> None:
        """As when the machine goes down: whoever works there or has a file of it open is killed;
        the kernel may take a moment to bury them, and a scheduler may begin others meanwhile.
        """
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(["umount", self.place], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, f"{self.place} stays busy"
            for pid in self.holders():
                assert pid != os.getpid()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def again(self) -> None:
        """As after the machine has started again."""
        self.unmount()
        self.mount()


@contextlib.contextmanager
def ext4(folder: Path) -> Iterator[Ext4]:
    """A disk that can lose its power."""
    disk = Ext4(folder)
    try:
        yield disk
    finally:
        _call("umount", "--lazy", disk.place)


@contextlib.contextmanager
def tmpfs(place: Path, size: str) -> Iterator[Path]:
    """A disk of that size."""
    place.mkdir(parents=True, exist_ok=True)
    _call("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place)
    try:
        yield place
    finally:
        _call("umount", "--lazy", place)


def remount(place: Path, options: str) -> None:
    """With other options: `size=10M`, `ro`."""
    _call("mount", "-o", f"remount,{options}", place)
