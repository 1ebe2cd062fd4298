"""The site file and `--slurm`: what is read, and that all mistakes are named at once, each with
its place.
"""

import pytest

from launch.backends.slurm.site import load_site
from launch.spec.load import SpecError
from tests.support.trials import ROOT


@pytest.fixture
def site_file(tmp_path):
    def write(text):
        path = tmp_path / "site.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_the_example_is_valid_and_names_every_setting():
    site = load_site(ROOT / "launch" / "site.example.yaml")
    assert set(type(site).model_fields) == site.model_fields_set
    assert (site.partition, site.gpus_per_trial, site.mem) == ("gpu", 1, "32G")


def test_overrides_come_on_top_of_the_file(site_file):
    path = site_file(
        "time: 12:30:00\naccount: 4711\nsetup: [module load cuda]\nsbatch: {exclude: node1, nice: "
        "10}\n"
    )
    words = [
        "time=1-00:00:05",
        "setup=module load gcc",
        "setup=export A=b",
        "sbatch.nice=20",
        "gpus_per_trial=0",
    ]
    assert load_site(path).seconds == 12 * 3600 + 30 * 60
    site = load_site(path, words)
    assert site.seconds == 24 * 3600 + 5
    assert site.account == "4711"
    assert site.setup == ["module load gcc", "export A=b"]
    assert site.sbatch == {"exclude": "node1", "nice": 20}
    assert site.gpus_per_trial == 0


def test_all_mistakes_at_once_each_with_its_place(site_file):
    path = site_file(
        "partiton: x\ngpus_per_trial: -1\ntime: 90\nsetup: module load cuda\nsbatch:\n  array: "
        "3\n  nice: 1.5\n"
    )
    with pytest.raises(SpecError) as error:
        load_site(path, ["mme=3G", "time=soon", "sbatch.signal=USR1", "partition"])
    assert str(error.value).splitlines() == [
        f"{path}:1:1: unknown setting 'partiton'; did you mean 'partition'?",
        f"{path}:2:17: gpus_per_trial: should be greater than or equal to 0, found -1",
        f'{path}:3:7: time: must be "HH:MM:SS" or "D-HH:MM:SS", found 90',
        f"{path}:4:8: setup: must be a valid list, found 'module load cuda'",
        f"{path}:6:3: sbatch.array: 'array' is set by the setting max_parallel",
        f"{path}:7:9: sbatch.nice: must be a valid string, found 1.5",
        "--slurm mme=3G: unknown setting 'mme'; did you mean 'mem'?",
        '--slurm time=soon: time: must be "HH:MM:SS" or "D-HH:MM:SS", found \'soon\'',
        "--slurm sbatch.signal=USR1: sbatch.signal: 'signal' is set by the launcher, which "
        "depends on it",
        "--slurm partition: expected key=value, such as time=04:00:00 or sbatch.exclude=node7",
    ]


@pytest.mark.parametrize("text", ["", "# nothing set\n"])
def test_an_empty_file_leaves_all_to_the_cluster(site_file, text):
    assert load_site(site_file(text)) == load_site(site_file("{}"))


def test_a_missing_or_broken_file(site_file, tmp_path):
    with pytest.raises(SpecError, match=r"none.yaml:1:1: cannot be read: No such file"):
        load_site(tmp_path / "none.yaml")
    with pytest.raises(
        SpecError, match=r"site.yaml:1:1: a site file is a mapping of settings; found \['gpu'\]"
    ):
        load_site(site_file("[gpu]"))
    with pytest.raises(SpecError, match=r"site.yaml:2:1: duplicate key 'mem'"):
        load_site(site_file("mem: 1G\nmem: 2G\n"))


def test_the_site_file_stays_out_of_git():
    assert "/launch/site.yaml" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
