"""Ray: the same worker on the same run directories, on this machine, a Ray cluster, or inside a
SLURM allocation.

The driver feeds warm actors with run directories itself instead of handing them to Ray Tune's
controller. On a quiet machine of two cores a trial cost 9 ms beyond its training that way; with
plain Tune, which starts a process for each, 0.99 s, and 0.11 s where Tune reuses actors (`python
-m benchmarks.launch_cost --backend ray`, `--plain tune`, `--plain tune-reuse`). What Tune's
controller has beyond that, its experiment state, would be a second opinion on what is finished;
here the run directories alone decide. Tune serves where it has something to choose: in a search.

An actor is a process with two threads, one for the training and one for being told to stop; the
lease in the run directory keeps it out of what another launcher works on, whatever Ray believes.
Actors live as long as their driver. A private cluster (no
--address) has its own folder, listens on loopback, keeps no dashboard, reports nothing to anybody,
and ends with the command.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.backends import Watcher
from launch.backends.queue import by_processes, on_signals
from launch.backends.ray.cluster import check_installed, divide, divide_among_teams, joined, nodes
from launch.backends.ray.gpu_memory import check_memory
from launch.backends.ray.pool import Pool
from launch.backends.slurm.site import Site, load_site
from launch.errors import UsageError
from launch.runs.job import Outcome


def add_arguments(group: Any) -> None:
    group.add_argument(
        "--address",
        metavar="auto|HOST:PORT",
        help="a running Ray cluster with a node on this machine (default: a private one, for this "
        "command only)",
    )
    group.add_argument(
        "--on-slurm",
        metavar="nodes=N",
        help="submit one SLURM job that brings Ray up over N nodes; the site's settings are those "
        "of --backend slurm",
    )


def settings(given: argparse.Namespace) -> dict[str, Any]:
    """Checked, as far as it goes without asking anybody."""
    if given.backend != "ray":
        return {}
    check_installed()
    if given.on_slurm is None:
        return {"address": _checked(given.address)}
    if given.address is not None:
        raise UsageError(
            "--address names a cluster that runs, --on-slurm brings one up; give one of them"
        )
    key, _, count = given.on_slurm.partition("=")
    if key != "nodes" or not count.isdigit() or int(count) < 1:
        raise UsageError(f"--on-slurm takes nodes=N, such as nodes=4; found '{given.on_slurm}'")
    return {"site": load_site(given.site, given.slurm), "on_nodes": int(count)}


def _checked(address: str | None) -> str | None:
    if address is None or address == "auto":
        return address
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(
            f"--address takes auto or HOST:PORT, such as 10.0.0.1:6379; found '{address}'"
        )
    return address


def run(
    run_dirs: Sequence[Path],
    watcher: Watcher,
    *,
    workers: int | None = None,
    trials_per_gpu: int = 1,
    address: str | None = None,
    site: Site | None = None,
    on_nodes: int = 1,
) -> dict[Path, Outcome]:
    """Run every directory; returns how each ended. Ctrl-C or SIGTERM once: checkpoint all and
    stop; twice: kill.

    site     of a SLURM cluster: submit a job of `on_nodes` nodes there that does this, and return
             at once

    Trials that take several GPUs have them on one node each, and come first.
    """
    if site is not None:
        from launch.backends.ray.on_slurm import submit

        share: dict[str, Any] = {"workers": workers, "trials_per_gpu": trials_per_gpu}
        return submit(run_dirs, watcher, site=site, on_nodes=on_nodes, **share)
    stops: list[None] = []

    def stop() -> None:
        stops.append(None)

    # Ray sets a SIGTERM handler of its own as it starts: ours goes over it again.
    with on_signals(stop), joined(address), on_signals(stop):
        pools = []
        for count, group in by_processes(run_dirs):
            if count > 1:
                slots = divide_among_teams(nodes(), workers, count)
            else:
                slots = divide(nodes(), workers, trials_per_gpu)
                check_memory(group, slots)
            pools.append(Pool(group, watcher, slots, lambda: len(stops), grows=workers is None))
        return {run_dir: ended for pool in pools for run_dir, ended in pool.run().items()}
