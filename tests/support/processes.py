"""The processes that train one run directory together, as the machine lists them."""

from pathlib import Path


def ranks_of(run_dir: Path) -> dict[int, dict[str, str]]:
    """Process -> its environment variables (RANK, SLURMD_NODENAME, ...)."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            lines = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended meanwhile
            continue
        if words[-2:-1] == [str(run_dir).encode()] and b"launch.worker" in words:
            found[int(entry.name)] = dict(line.partition("=")[::2] for line in lines)
    return found
