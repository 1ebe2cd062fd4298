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
from typing import Self

from launch.backends.base import Backend, Limits, Watcher
from launch.backends.queue import Trials, by_processes, on_signals
from launch.backends.ray.cluster import (
    Slots,
    check_installed,
    divide,
    divide_among_groups,
    joined,
    nodes,
)
from launch.backends.ray.gpu_memory import check_memory
from launch.backends.ray.pool import Pool
from launch.backends.slurm.cli import check_login_node
from launch.backends.slurm.site import Site, load_site
from launch.errors import UsageError
from launch.runs.job import Outcome


class RayBackend(Backend):
    """On the cluster at `address`, a private one without; or, given a site, in a SLURM job of
    `on_nodes` nodes that is submitted.
    """

    name = "ray"
    can_search = True
    keeps_deadlines = True

    def __init__(
        self, address: str | None = None, site: Site | None = None, on_nodes: int = 1
    ) -> None:
        self.address, self.site, self.on_nodes = address, site, on_nodes
        self.can_search = self.keeps_deadlines = site is None

    @property
    def runs_here(self) -> bool:
        return self.address is None and self.site is None

    @classmethod
    def add_arguments(cls, group: argparse._ArgumentGroup) -> None:
        group.add_argument(
            "--address",
            metavar="auto|HOST:PORT",
            help="a running Ray cluster with a node on this machine (default: a private one, for "
            "this command only)",
        )
        group.add_argument(
            "--on-slurm",
            metavar="nodes=N",
            help="submit one SLURM job that brings Ray up over N nodes; the site's settings are "
            "those of --backend slurm",
        )

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> Self:
        """Checked, as far as it goes without asking anybody."""
        check_installed()
        if args.on_slurm is None:
            return cls(_checked(args.address))
        if args.address is not None:
            raise UsageError(
                "--address names a cluster that runs, --on-slurm brings one up; give one of them"
            )
        key, _, count = args.on_slurm.partition("=")
        if key != "nodes" or not count.isdigit() or int(count) < 1:
            raise UsageError(f"--on-slurm takes nodes=N, such as nodes=4; found '{args.on_slurm}'")
        return cls(site=load_site(args.site, args.slurm), on_nodes=int(count))

    def check(self, limits: Limits) -> None:
        if self.site is not None:
            check_login_node("--on-slurm")

    def run(
        self, run_dirs: Sequence[Path], watcher: Watcher, limits: Limits
    ) -> dict[Path, Outcome]:
        """Ctrl-C or SIGTERM once: checkpoint all and stop; twice: kill.

        Trials that take several GPUs have them on one node each, and come first.
        """
        if self.site is not None:
            from launch.backends.ray.on_slurm import submit

            return submit(run_dirs, watcher, limits, site=self.site, on_nodes=self.on_nodes)
        signals: list[None] = []

        def stop() -> None:
            signals.append(None)

        # Ray sets a SIGTERM handler of its own as it starts: ours goes over it again.
        with on_signals(stop), joined(self.address), on_signals(stop):
            slots = _slots(run_dirs, limits)
            trials = Trials(run_dirs, watcher, limits.deadline)

            def stops() -> int:
                return max(len(signals), trials.stops())

            while trials.left and not stops():
                group = next(count for count in slots if trials.is_open(count))
                if not Pool(
                    trials, group, slots[group], stops, grows=limits.workers is None
                ).run():
                    break
            return trials.close()


def _slots(run_dirs: Sequence[Path], limits: Limits) -> dict[int, Slots]:
    """How the nodes are divided, by the number of processes of a trial; UsageError where trials do
    not fit.
    """
    slots = {}
    for count, group in by_processes(run_dirs):
        if count > 1:
            slots[count] = divide_among_groups(nodes(), limits.workers, count)
        else:
            slots[count] = divide(nodes(), limits)
            check_memory(group, slots[count])
    return slots


def _checked(address: str | None) -> str | None:
    if address is None or address == "auto":
        return address
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(
            f"--address takes auto or HOST:PORT, such as 10.0.0.1:6379; found '{address}'"
        )
    return address
