"""A real SLURM on this machine: munge, a controller, three nodes of two pretend GPUs, and an
accounting database if wanted.

    python -m tests.support.slurm.cluster [--accounting] [--max-array-size 1001] -- COMMAND ...

Everything lives in one folder and on free ports, and is stopped by process number.
"""

import argparse
import contextlib
import os
import platform
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.slurm.conf import CONF, DBD_CONF
from tests.support.trials import PATIENCE

NODES = ("n1", "n2", "n3")
GPUS_PER_NODE = 2
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "srun")
ACCOUNTING_PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db", "sacctmgr", "sacct")
INSTALL = "apt-get install slurm-wlm munge slurmdbd mariadb-server (make slurm-test does it)"


def missing(accounting: bool = False) -> list[str]:
    """Programs that this machine lacks."""
    return [each for each in PROGRAMS + ACCOUNTING_PROGRAMS * accounting if _find(each) is None]


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    """Consecutive ports that nobody listens on."""
    for first in random.sample(
        range(12000, 32000, count), 1000
    ):  # below those that outgoing connections take
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        return list(range(first, first + count))
    raise RuntimeError("no free ports")


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Poll until a condition holds; fails with what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s still not: {what}")
        time.sleep(0.2)


class Cluster:
    """Start it, use `environment` for commands that talk to it, stop it."""

    def __init__(
        self,
        folder: Path,
        *,
        accounting: bool = False,
        max_array_size: int = 1001,
        min_job_age: int = 300,
    ) -> None:
        self.folder, self.accounting = folder, accounting
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.cleaning = folder / "cleaning"
        """As long as it is there, nodes are cleaned up after a job: the job is COMPLETING."""
        ports = free_ports(6)
        node_ports = ",".join(map(str, ports[1:4]))
        self.values = {
            "folder": folder,
            "host": platform.node(),
            "user": _user(),
            "controller_port": ports[0],
            "node_ports": node_ports,
            "dbd_port": ports[4],
            "database_port": ports[5],
            "max_array_size": max_array_size,
            "min_job_age": min_job_age,
        }

    def start(self) -> None:
        self.folder.chmod(0o755)  # munged insists that everyone can reach its socket
        for name in ("munge", "state", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        storage = "AccountingStorageType=accounting_storage/none"
        if self.accounting:
            munge = self.folder / "munge" / "socket"
            storage = "\n".join(
                (
                    "AccountingStorageType=accounting_storage/slurmdbd",
                    "AccountingStorageHost=127.0.0.1",
                    f"AccountingStoragePort={self.values['dbd_port']}",
                    "AccountingStorageEnforce=associations,limits,qos",
                    "JobAcctGatherType=jobacct_gather/none",
                    f"AccountingStoragePass={munge}",  # munge's socket, in spite of its name
                )
            )
        (self.folder / "slurm.conf").write_text(CONF.format(**self.values, accounting=storage))
        (self.folder / "gres.conf").write_text(f"Name=gpu File=/dev/tty[0-{GPUS_PER_NODE - 1}]\n")
        epilog = self.folder / "epilog"
        epilog.write_text(f"#!/bin/sh\nwhile [ -e {self.cleaning} ]; do sleep 0.2; done\n")
        epilog.chmod(0o755)
        self._start_munge()
        if self.accounting:
            self._start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self.node_states() == {"idle"}, "all nodes idle")

    def stop(self) -> None:
        """Jobs first, then the daemons in the reverse order of their start."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.ask("scancel", "--full", "--signal=KILL", f"--user={_user()}")
            wait_until(lambda: not self.ask("squeue", "-h", "--states=R,CG"), "no job running")
        for name in list(self.daemons)[::-1]:
            self.end(name)

    def ask(self, *words: str) -> str:
        """What a SLURM command prints."""
        have = {**os.environ, **self.environment}
        done = subprocess.run(
            words, env=have, capture_output=True, text=True, check=True, timeout=PATIENCE
        )
        return done.stdout

    def node_states(self) -> set[str]:
        """What sinfo calls the nodes."""
        try:
            return {
                line.rstrip("*~#!%$@^-")
                for line in self.ask("sinfo", "-h", "-N", "-o", "%t").split()
            }
        except subprocess.SubprocessError:
            return set()

    def start_controller(self) -> None:
        self._daemon("slurmctld", "slurmctld", "-D", "-f", self.environment["SLURM_CONF"])
        wait_until(lambda: self.answers("scontrol", "ping"), "the controller answers")

    @contextlib.contextmanager
    def without_controller(self) -> Iterator[dict[str, str]]:
        """The controller is away while the block runs; yields the environment of commands that
        give it up soon.

        They try for as long as a message may take, and the daemons, which read another file, keep
        their patience.
        """
        hasty = self.folder / "hasty.conf"
        text = (self.folder / "slurm.conf").read_text()
        hasty.write_text(text.replace("MessageTimeout=10", "MessageTimeout=1"))
        self.end("slurmctld")
        try:
            yield {"SLURM_CONF": str(hasty)}
        finally:
            self.start_controller()

    def start_node(self, node: str) -> None:
        self._daemon(node, "slurmd", "-D", "-N", node, "-f", self.environment["SLURM_CONF"])

    def end(self, name: str, *, kill: bool = False) -> None:
        """Stop a daemon (`slurmctld`, or a node's name) by its process number."""
        process = self.daemons.pop(name)
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def answers(self, *words: str) -> bool:
        try:
            return "DOWN" not in self.ask(*words)
        except subprocess.SubprocessError:
            return False

    def log(self) -> str:
        """The ends of the daemons' logs, for a test that failed."""
        files = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in files
        )

    def _daemon(self, name: str, program: str, *words: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                [_find(program) or program, *words],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        folder.chmod(0o755)
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o400)
        files = ("key-file", "socket", "pid-file", "log-file", "seed-file")
        words = [f"--{each}={folder / each.removesuffix('-file')}" for each in files]
        self._daemon("munged", "munged", "--foreground", *words)
        wait_until((folder / "socket").exists, "munged's socket")

    def _start_accounting(self) -> None:
        data = self.folder / "database"
        options = ["--no-defaults", f"--datadir={data}", f"--user={_user()}"]
        install = [*options, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(
            [_find("mariadb-install-db") or "", *install],
            check=True,
            capture_output=True,
            timeout=PATIENCE,
        )
        (self.folder / "init.sql").write_text(
            "CREATE USER IF NOT EXISTS slurm@'%' IDENTIFIED BY 'slurm'; GRANT ALL ON slurm_acct.* "
            "TO slurm@'%'; "
            "CREATE DATABASE IF NOT EXISTS slurm_acct;".replace("; ", ";\n")
        )
        port = self.values["database_port"]
        words = [
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={self.folder / 'database.socket'}",
        ]
        words += [
            f"--init-file={self.folder / 'init.sql'}",
            "--innodb-buffer-pool-size=64M",
            "--skip-name-resolve",
        ]
        self._daemon(
            "mariadbd", "mariadbd", *options, *words, f"--pid-file={self.folder / 'database.pid'}"
        )
        wait_until(lambda: _listens(int(str(port))), "the database listens", 180)
        conf = self.folder / "slurmdbd.conf"
        conf.write_text(DBD_CONF.format(**self.values))
        conf.chmod(0o600)
        self._daemon("slurmdbd", "slurmdbd", "-D")
        wait_until(
            lambda: self.answers("sacctmgr", "-i", "show", "cluster"), "slurmdbd answers", 180
        )
        self.ask("sacctmgr", "-i", "add", "cluster", "test")
        self.ask("sacctmgr", "-i", "add", "account", "lab", "Description=lab", "Organization=lab")
        self.ask("sacctmgr", "-i", "add", "user", _user(), "DefaultAccount=lab")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


@contextlib.contextmanager
def running(**options: object) -> Iterator[Cluster]:
    """A cluster in a temporary folder (a short path: sockets have short names) while the block
    runs.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    cluster = Cluster(folder, **options)  # type: ignore[arg-type]
    try:
        cluster.start()
        yield cluster
    except BaseException:
        print(cluster.log(), file=sys.stderr)
        raise
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--accounting", action="store_true")
    parser.add_argument("--max-array-size", type=int, default=1001)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    if lacking := missing(given.accounting):
        parser.exit(2, f"{', '.join(lacking)} not found: {INSTALL}\n")
    with running(accounting=given.accounting, max_array_size=given.max_array_size) as cluster:
        return subprocess.run(
            given.command, env={**os.environ, **cluster.environment}, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
