"""A site with slurmdbd: what squeue has forgotten is asked of sacct. (The other tests' cluster has
none.)
"""

import pytest

from launch.backends.slurm import cli, jobs, submissions
from launch.backends.slurm.backend import SlurmBackend
from tests.support.slurm.cluster import INSTALL, missing, running
from tests.support.slurm.launcher import Launcher

pytestmark = pytest.mark.cluster


@pytest.fixture
def accounted(tmp_path, monkeypatch):
    """A launcher to a cluster with accounting, whose controller forgets jobs soon."""
    if lacking := missing(accounting=True):
        pytest.skip(f"no SLURM with accounting here ({', '.join(lacking)} not found): {INSTALL}")
    with running(accounting=True, max_array_size=5, min_job_age=2) as cluster:
        monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
        monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path / "results"))
        cli.configuration.cache_clear()
        yield Launcher(cluster, tmp_path)
    cli.configuration.cache_clear()


def test_ids_of_arrays_that_never_started():
    assert jobs.expand("7") == ["7"]
    assert jobs.expand("7_3") == ["7_3"]
    assert jobs.expand("7_[0-2,5%2]") == ["7_0", "7_1", "7_2", "7_5"]


def test_how_forgotten_jobs_ended(accounted):
    assert cli.has_accounting()
    spec = accounted.spec(seeds=[0, 1], epochs=2)
    accounted.submit(spec, "--slurm", "sbatch.hold=true")
    first, second = accounted.run_dirs
    SlurmBackend.withdraw([first])
    (folder,) = accounted.results.glob("slurm/rm-*")
    accounted.cluster.ask("scontrol", "release", SlurmBackend.jobs([second])[second].id)
    accounted.wait_finished([second])

    def forgotten() -> bool:
        said = accounted.cluster.ask("squeue", "-h", "--states=all", f"--name={folder.name}")
        return not said.strip()

    accounted.wait_until(forgotten, "squeue knows the jobs no more", 300)
    found = SlurmBackend.jobs([first, second])
    assert [job.state for job in found.values()] == ["gone", "gone"]
    assert found[second].where == "COMPLETED"
    assert found[first].where in ("", "CANCELLED by 0"), (
        "sacct of 22.05 leaves out what never started"
    )
    (folder / "submitted.json").unlink()
    assert submissions.reconcile(folder) == found[first].id.partition("_")[0], (
        "an orphan that has ended already is still found"
    )
    assert "1 submitted" in accounted.submit(spec, "--slurm", "sbatch.hold=true")


def test_a_limit_of_the_site_refuses_some_and_lets_others_wait(accounted):
    """Six jobs a user may be submitted: the array of five is in, the one of two is not. One may
    run at a time: the others say what they wait for.
    """
    limits = ("MaxSubmitJobsPerUser=6", "MaxJobsPerUser=1")
    accounted.cluster.ask("sacctmgr", "-i", "modify", "qos", "normal", "set", *limits)
    spec = accounted.spec(seeds=list(range(7)), epochs=2)
    words = (spec, "--backend", "slurm", "--slurm", "cpus_per_gpu=4")
    code, _, err = accounted.run(*words, "--slurm", "sbatch.hold=true")
    assert code == 1, err
    assert "SLURM took 1 of 2 arrays and refused the next: " in err
    assert "QOS policy" in err
    assert "5 submitted, 2 unsubmitted" in err
    assert "the same command submits it, once it may" in err
    submitted = SlurmBackend.jobs(accounted.run_dirs)
    for job in submitted.values():
        accounted.cluster.ask("scontrol", "release", job.id)

    def reasons() -> set[str]:
        return {job.where for job in SlurmBackend.jobs(list(submitted)).values()}

    accounted.wait_until(lambda: "QOSMaxJobsPerUserLimit" in reasons(), "one waits for another")
    more = ("MaxSubmitJobsPerUser=7", "MaxJobsPerUser=1")
    accounted.cluster.ask("sacctmgr", "-i", "modify", "qos", "normal", "set", *more)
    assert "2 submitted" in accounted.submit(spec, "--slurm", "sbatch.hold=true")
