"""`plugins: [file.py]`: methods, backbones and data sets from outside the clone."""

import json

import pytest

from launch import cli
from launch.plan import make_plan
from launch.runs.create import prepare
from launch.runs.rundir import RunDir
from launch.spec.load import SpecError, load_spec
from rm import registry
from rm.registry import plugins
from rm.trial import TrialError, load_trial

METHOD = '''
"""The image mixed with its mirror."""

from typing import Annotated

import torch

from rm.methods import Method, Mixed

SECTION = "method"


class Mirrored(Method):
    def __init__(self, *, share: Annotated[float, "0 <= share <= 1"] = 0.25) -> None:
        super().__init__()
        self.share = share

    def mix(self, images, targets, step, model=None) -> Mixed:
        return Mixed(torch.lerp(images, images.flip(-1), self.share), targets)
'''
DATA = '''
"""Two kinds of noise."""

import torch

from rm.datasets import Dataset, InMemorySplit

SECTION = "dataset"


def noise(folder, *, size: int = 8) -> Dataset:
    labels = torch.arange(64) % 2
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 128, (64, size, size, 1), generator=draw, dtype=torch.uint8)
    images += (labels * 100).to(torch.uint8)[:, None, None, None]
    split = InMemorySplit(images, labels)
    return Dataset(split, split, 2, (0.5,), (0.5,), padding=0, flip=False)
'''
BACKBONE = '''
"""One convolution."""

from torch import nn

from rm.backbones import Backbone

SECTION = "backbone"


class _Tiny(Backbone):
    def __init__(self, classes, channels, width):
        super().__init__()
        self.num_features = width
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.head = nn.Linear(width, classes)

    def features(self, images):
        return self.conv(images).relu()


def one_conv(num_classes, in_channels, *, width: int = 8) -> Backbone:
    return _Tiny(num_classes, in_channels, width)
'''
CHANGES = {
    "{name: digits, size: 16, limit: 70, test_limit: 60}": "{name: noise, limit: 32}",
    "{name: resnet8, width: 8}": "one_conv",
    "RM: {name: recursive_mix, alpha: 0.5, omega: 0.5}": "RM: {name: mirrored, share: 0.5}",
    "epochs: 2, batch_size: 16": "epochs: 1, batch_size: 16",
}
LIST = "plugins: [mine/mirrored.py, mine/data.py, mine/nets.py]\nseeds: [0, 1]"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """No plugin of another test."""
    monkeypatch.setattr(plugins, "_known", {})
    monkeypatch.setattr(plugins, "_contents", {})


@pytest.fixture
def spec_file(tmp_path, write_spec):
    def write(method=METHOD, **more):
        (tmp_path / "mine").mkdir(exist_ok=True)
        texts = {"mirrored.py": method, "data.py": DATA, "nets.py": BACKBONE}
        for name, text in texts.items():
            (tmp_path / "mine" / name).write_text(text)
        return write_spec(**{**CHANGES, "seeds: [0, 1]": LIST, **more})

    return write


def test_a_trial_of_plugins_alone_is_trained_from_its_copies(spec_file, results, tmp_path):
    """The worker finds what it needs in the run directory: the files themselves may be gone."""
    spec = load_spec(spec_file(), seeds=[0])
    plan = make_plan([spec], results / "runs")
    prepare(plan.uses, results / "runs")
    for file in (tmp_path / "mine").iterdir():
        file.unlink()
    trial = spec.trials[-1]
    assert {
        s: v["plugin"] for s, v in trial.values.items() if s in ("method", "backbone", "dataset")
    }
    from rm.train import fit

    run_dir = results / "runs" / trial.id
    plugins._known.clear()
    loaded = load_trial(run_dir / "trial.json")
    assert loaded.options("method") == {"share": 0.5}
    fit(loaded, run_dir)
    assert RunDir(run_dir).is_finished()
    assert len(list((run_dir / "plugins").iterdir())) == 3, "and no __pycache__"
    baseline = results / "runs" / spec.trials[0].id / "plugins"
    assert len(list(baseline.iterdir())) == 2, "its method is none of a plugin"


def test_the_content_counts_and_the_place_does_not(spec_file, tmp_path, write_spec):
    before = [trial.id for trial in load_spec(spec_file()).trials]
    plugins._known.clear()
    (tmp_path / "mine").rename(tmp_path / "yours")
    moved = {**CHANGES, "seeds: [0, 1]": LIST.replace("mine/", "yours/")}
    assert [trial.id for trial in load_spec(write_spec(**moved)).trials] == before
    (tmp_path / "yours" / "mirrored.py").write_text(METHOD + "\n# changed\n")
    plugins._known.clear()
    after = [trial.id for trial in load_spec(write_spec(**moved)).trials]
    assert (after[:2], set(after[2:]) & set(before)) == (before[:2], set())


def test_options_are_checked_as_those_of_rm(spec_file):
    with pytest.raises(SpecError, match=r"method.share: must satisfy 0 <= share <= 1, found 2"):
        load_spec(spec_file(), overrides=["method.share=2"])
    with pytest.raises(SpecError, match="no row has a method with the option 'plugin'"):
        load_spec(spec_file(), overrides=["method.plugin=abc"])


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (
            METHOD.replace('SECTION = "method"', ""),
            "a plugin says what it has by SECTION = one of",
        ),
        (METHOD.replace("(self, *, share", "(self, *, share=1, other"), "has no annotation"),
        (METHOD + "\nclass Second: ...\n", "a file here defines one public class"),
        (METHOD + "\n(", "cannot be read"),
    ],
)
def test_what_a_file_lacks_is_said_at_its_line(spec_file, method, said):
    with pytest.raises(SpecError) as caught:
        load_spec(spec_file(method))
    first = str(caught.value).splitlines()[0]
    assert ":3:11: " in first
    assert said in first


def test_no_file_replaces_what_is_there(spec_file, tmp_path, write_spec):
    path = spec_file()
    (tmp_path / "mine" / "cutmix.py").write_text(METHOD)
    taken = {**CHANGES, "seeds: [0, 1]": LIST.replace("]\n", ", mine/cutmix.py]\n")}
    with pytest.raises(SpecError, match="method 'cutmix' is there already"):
        load_spec(write_spec(name="taken.yaml", **taken))
    load_spec(path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mirrored.py").write_text(METHOD + "\n# other\n")
    twice = {**CHANGES, "seeds: [0, 1]": LIST.replace("mine/mirrored", "other/mirrored")}
    with pytest.raises(SpecError, match=r"method 'mirrored' is that of .* already"):
        load_spec(write_spec(name="twice.yaml", **twice))


def test_a_damaged_copy_is_no_trial(spec_file, results):
    spec = load_spec(spec_file(), seeds=[0])
    prepare(make_plan([spec], results / "runs").uses, results / "runs")
    run_dir = results / "runs" / spec.trials[-1].id
    (copy,) = (run_dir / "plugins").glob("*_mirrored.py")
    copy.write_text(METHOD + "\n# changed\n")
    with pytest.raises(TrialError, match="was planned with another content"):
        load_trial(run_dir / "trial.json")


def test_the_plan_names_them(spec_file, capsys, results):
    assert cli.main(["plan", str(spec_file()), "--json"]) == 0
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert {trial["values"]["dataset"]["name"] for trial in trials} == {"noise"}
    assert registry.entry("dataset", "noise").options.keys() == {
        "size", "limit", "test_limit", "held_out",
    }  # fmt: skip
