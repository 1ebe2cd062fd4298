"""Specs: what they resolve to, and every mistake located, all at once, with what would be
valid.
"""

import pytest

from launch.spec.load import SpecError, load_spec
from tests.support.trials import ROOT


def mistakes(path):
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


def test_table3_is_the_papers():
    spec = load_spec(ROOT / "experiments" / "table3.yaml")
    assert len(spec.trials) == len({trial.id for trial in spec.trials}) == 60
    assert spec.axes == ("backbone", "method")
    cells = {cell.labels: cell for cell in spec.cells}
    rm = cells["ResNet-18", "+ RM (ours)"]
    assert rm.published == 18.64
    assert rm.trials[2].seed == 2
    values = rm.trials[0].values
    assert values["method"]["name"] == "recursive_mix"
    assert (values["method"]["alpha"], values["method"]["omega"]) == (0.5, 0.1)
    assert values["method"]["roi"] == "aligned", "defaults are part of the resolved values"
    assert values["train"]["epochs"] == 200
    assert values["dataset"] == {
        "name": "cifar100",
        "limit": None,
        "test_limit": None,
        "held_out": 0,
        "normalisation": "released",
    }
    assert "nesterov" in " ".join(rm.assumed)
    assert set(cells["ResNet-34", "+ CutMix"].assumed) >= {
        "method.alpha",
        "method.probability",
        "train.precision",
    }
    assert spec.claims[0].chain[0] == "+ RM (ours)"


def test_a_profile_changes_the_trials_and_says_so(write_spec):
    path = write_spec()
    full, smoke = load_spec(path), load_spec(path, "smoke")
    assert full.profile is None
    assert smoke.profile == "smoke"
    assert smoke.seeds == (3,)
    assert {trial.values["train"]["epochs"] for trial in smoke.trials} == {1}
    assert not {trial.id for trial in full.trials} & {trial.id for trial in smoke.trials}
    assert load_spec(path, seeds=[7]).seeds == (7,)
    with pytest.raises(SpecError, match="no profile 'smok'; did you mean 'smoke'"):
        load_spec(path, "smok")


def test_identity_is_of_resolved_values(write_spec):
    """Labels, defaults written out, number formats and the order of keys change no id; any
    resolved value does.
    """
    ids = [trial.id for trial in load_spec(write_spec()).trials]
    same = write_spec(
        **{
            "RM": "Recursive",
            "Baseline": "No mixing",
            "name: sgd, lr: 0.05": "momentum: 0.9, lr: 5e-2, name: sgd",
        }
    )
    assert [trial.id for trial in load_spec(same).trials] == ids
    for old, new in (
        ("lr: 0.05", "lr: 0.06"),
        ("epochs: 2", "epochs: 3"),
        ("limit: 70", "limit: 71"),
    ):
        other = [trial.id for trial in load_spec(write_spec(**{old: new})).trials]
        assert not set(other) & set(ids)


def test_a_change_of_numerics_changes_every_id(write_spec, monkeypatch):
    before = {trial.id for trial in load_spec(write_spec()).trials}
    monkeypatch.setattr("rm.registry.numerics", lambda values: 99)
    assert not before & {trial.id for trial in load_spec(write_spec()).trials}


def test_five_different_mistakes_at_once(write_spec):
    path = write_spec(
        **{
            "title:": "titel:",
            "epochs: 2": "epochs: two",
            "lr: 0.05": "lr: -1",
            "Baseline: baseline": "Baseline: cutmx",
            "alpha: 0.5": "alhpa: 0.5",
            '"RM < Baseline"': '"RN < Baseline"',
        }
    )
    assert mistakes(path) == [
        "2:1: a spec has no 'titel'; did you mean 'title'?",
        "2:1: a spec needs 'title'",
        "7:19: train.epochs: must be a whole number, found 'two'",
        "8:30: optimizer.lr: must satisfy lr > 0, found -1",
        "12:15: unknown method 'cutmx'; did you mean 'cutmix'?",
        "13:31: method 'recursive_mix' has no option 'alhpa'; did you mean 'alpha'?",
        "14:10: claim about unknown label 'RN'; did you mean 'RM'?",
    ]


@pytest.mark.parametrize(
    ("replace", "expected"),
    [
        (
            {"seeds: [0, 1]": "seeds: [0, 0]"},
            "3:8: seeds: must not name a seed twice, found [0, 0]",
        ),
        (
            {"seeds: [0, 1]": "seeds: [0, 1]\nseeds: [2]"},
            "4:1: duplicate key 'seeds'; first given at line 3",
        ),
        ({"axes:": "axis:"}, "10:1: a spec has no 'axis'; did you mean 'axes'?"),
        (
            {"backbone: {name: resnet8, width: 8}": "backbone: resnet9000"},
            "6:13: unknown backbone 'resnet9000'",
        ),
        (
            {"name: cosine": "warmup_epochs: 3"},
            "9:14: schedule has no name; valid: constant, cosine, cosine_floor, poly, step",
        ),
        (
            {"  optimizer: {name: sgd, lr: 0.05}\n": ""},
            "4:1: optimizer has no name; valid: adamw, sgd",
        ),
        ({"name: sgd, lr: 0.05": "name: sgd"}, "8:21: optimizer 'sgd' needs 'lr'"),
        (
            {"size: 16, limit": "size: 16.5, limit"},
            "5:33: dataset.size: must be a whole number, found 16.5",
        ),
        ({"lr: 0.05": "lr: .nan"}, "8:30: optimizer.lr: must be a finite number, found nan"),
        ({"lr: 0.05": "lr: yes"}, "8:30: optimizer.lr: must be a number, found 'yes'"),
        (
            {"train.epochs: 1": "trian.epochs: 1"},
            "16:11: unknown section 'trian'; did you mean 'train'?",
        ),
        ({"seeds: [3]": "seeds: 3"}, "16:35: seeds must be a list of whole numbers, found 3"),
        ({"method:": "method: {"}, "not valid YAML"),
        (
            {'title: "Two methods on a few digits"': "margin: -1"},
            "2:9: margin: must satisfy margin >= 0, found -1",
        ),
    ],
)
def test_mistakes_are_located(write_spec, replace, expected):
    assert any(expected in line for line in mistakes(write_spec(**replace))), mistakes(
        write_spec(**replace)
    )


def test_published_values_must_fit_the_axes(write_spec):
    path = write_spec(claims="published: [1.0, 2.0, 3.0]\nclaims")
    assert "expected 2 published values (Baseline, RM)" in mistakes(path)[0]
    path = write_spec(claims="published: {Baseline: 3.5, RN: 2.0}\nclaims")
    assert mistakes(path) == ["14:28: no label 'RN' here; did you mean 'RM'?"]
    path = write_spec(claims="published: {Baseline: 3.5}\nclaims")
    assert [cell.published for cell in load_spec(path).cells] == [3.5, None]


def test_rows_line_by_line(write_spec):
    text = """
    title: "Rows"
    trial:
      dataset: digits
      backbone: resnet8
      train: {epochs: 1, batch_size: 16}
      optimizer: {name: sgd, lr: 0.1}
      schedule: constant
      method: {name: recursive_mix, omega: 0.3, assumed: {omega: "a guess"}}
    rows:
      - {row: as it is, published: 4.5}
      - {row: other alpha, method.alpha: 0.9}
      - {row: other method, method: mixup, train: {epochs: 2}}
    """
    spec = load_spec(write_spec(text))
    methods = [cell.trials[0].values["method"] for cell in spec.cells]
    assert [(m["name"], m["alpha"]) for m in methods] == [
        ("recursive_mix", 0.5),
        ("recursive_mix", 0.9),
        ("mixup", 1.0),
    ]
    assert [cell.published for cell in spec.cells] == [4.5, None, None]
    assert [cell.trials[0].values["train"]["epochs"] for cell in spec.cells] == [1, 1, 2]
    assert [dict(cell.assumed) for cell in spec.cells] == [{"method.omega": "a guess"}] * 2 + [{}]


def test_an_axis_may_be_a_dotted_key_or_any_name(write_spec):
    axes = (
        "axes:\n  method.alpha: [0.1, 0.5]\n  size:\n    small: {dataset.limit: 20}\n    "
        "large: {dataset.limit: 60}\n"
    )
    text = """
    title: "Axes"
    trial:
      dataset: digits
      backbone: resnet8
      method: recursive_mix
      train: {epochs: 1, batch_size: 16}
      optimizer: {name: sgd, lr: 0.1}
      schedule: constant
    AXES
    """
    spec = load_spec(write_spec(text, AXES=axes))
    assert [cell.labels for cell in spec.cells] == [
        ("0.1", "small"),
        ("0.1", "large"),
        ("0.5", "small"),
        ("0.5", "large"),
    ]
    assert [c.trials[0].values["dataset"]["limit"] for c in spec.cells] == [20, 60, 20, 60]
    assert [c.trials[0].values["method"]["alpha"] for c in spec.cells] == [0.1, 0.1, 0.5, 0.5]


def test_a_missing_file_is_a_located_error(tmp_path):
    assert mistakes(tmp_path / "nothing.yaml") == [
        "1:1: cannot be read: No such file or directory"
    ]


def test_planning_needs_neither_torch_nor_mlflow(write_spec):
    import subprocess
    import sys

    code = (
        "import sys; sys.modules.update({m: None for m in ('torch', 'mlflow', 'timm', 'pandas')});"
        "from launch.spec.load import load_spec;"
        f"print(len(load_spec({str(write_spec())!r}).trials))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "4\n", done.stderr


def test_a_method_that_cannot_act_inside_its_backbone_is_refused_when_planned(write_spec):
    """At the method, once for each backbone, however many seeds and other axes meet it."""
    path = write_spec(
        **{
            "backbone: {name: resnet8, width: 8}": "schedule: constant",
            "  schedule: {name: cosine}\n": "",
            "Baseline: baseline": "Baseline: stochastic_depth",
            "axes:": "axes:\n  backbone: [resnet18, densenet121, imagenet_pvt_v2_b1]\n  "
            "train.batch_size: [8, 16]",
        }
    )
    valid = (
        "imagenet_resnet101, imagenet_resnet18, imagenet_resnet34, imagenet_resnet50, "
        "imagenet_resnext50_32x4d, pyramidnet164_270, pyramidnet200_240, "
        "resnet18, resnet34, resnet50, resnet8, resnext50_32x4d"
    )
    needs = "13:15: method 'stochastic_depth' needs a backbone with residual branches;"
    assert mistakes(path) == [
        f"{needs} densenet121 has none; valid: {valid}",
        f"{needs} imagenet_pvt_v2_b1 has none; valid: {valid}",
    ]


def test_a_misfit_is_located_at_the_methods_name(write_spec):
    path = write_spec(
        **{
            "{name: resnet8, width: 8}": "imagenet_pvt_v2_b1",
            "RM: {name: recursive_mix, alpha: 0.5, omega: "
            "0.5}": "RM: {label_weight: 0.5, name: moex}",
        }
    )
    assert mistakes(path)[0].startswith(
        "13:35: method 'moex' needs a backbone with stem; imagenet_pvt_v2_b1 has none;"
    )


def test_several_metrics_of_one_table_are_views_of_the_same_trials():
    spec = load_spec(ROOT / "experiments" / "table5.yaml")
    first, second = spec.views
    assert (first.metric.name, second.metric.name) == ("top1_error", "top5_error")
    assert [cell.trials for cell in first.cells] == [cell.trials for cell in second.cells]
    rm = {view.metric.name: view.cells[3].published for view in spec.views}
    assert rm == {"top1_error": 20.80, "top5_error": 5.42}


def test_settings_may_have_their_own_seeds_and_the_command_line_has_the_last_word():
    def seeds(spec):
        return {cell.labels[0]: [trial.seed for trial in cell.trials] for cell in spec.cells}

    path = ROOT / "experiments" / "table4a.yaml"
    assert seeds(load_spec(path))["ImageNet, ResNet-50"] == [0]
    assert seeds(load_spec(path))["CIFAR-100, ResNet-18"] == [0, 1, 2]
    assert set(map(tuple, seeds(load_spec(path, seeds=[4, 5])).values())) == {(4, 5)}
    assert set(map(tuple, seeds(load_spec(path, "smoke")).values())) == {(0,)}


def test_claims_can_be_about_a_range_and_about_one_panel():
    claims = {claim.text: claim for claim in load_spec(ROOT / "experiments" / "fig5.yaml").claims}
    flat = claims["ω=0.1, ω=0.2, ω=0.3, ω=0.4, ω=0.5, ω=1 within 0.3"]
    assert flat.chain == ("ω=0.1", "ω=0.2", "ω=0.3", "ω=0.4", "ω=0.5", "ω=1")
    assert (flat.within, flat.of) == (0.3, "CIFAR-10, PyramidNet-200")
    assert claims["ω=0.1 < ω=0"].of is None
