"""Measurements of trials: what they find, and that a run directory treats them as it treats
trainings.
"""

import itertools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.io import decode_image

from rm.backbones.resnet import ResNet
from rm.methods.recursive_mix import RecursiveMix
from rm.ops import mix_targets
from rm.probes import effective_classes as module
from rm.probes.effective_classes import _effective, _mixed_labels, effective_classes
from rm.probes.overhead import _memory, overhead
from rm.probes.samples import samples
from rm.train import Interrupted, fit
from rm.trial import TrialError, load_trial, parse_trial
from tests.support.trials import TINY, write_trial

CPU = torch.device("cpu")
RM = {"name": "recursive_mix", "alpha": 0.5, "omega": 0.5}


class Points(list):
    """A log that keeps what it is told."""

    def log_point(self, **values):
        self.append(values)

    def save_artifact(self, name, content):
        self.kept = {**getattr(self, "kept", {}), name: content}

    def raise_if_stopped(self):
        pass


def trial(method, seed=0, batch_size=16, **probe):
    values = TINY | {
        "seed": seed,
        "method": method,
        "train": {"epochs": 1, "batch_size": batch_size},
    }
    return parse_trial(values | ({"probe": probe} if probe else {}))


def measured(method, seed=0, batch_size=16, **options):
    log = Points()
    return effective_classes(trial(method, seed, batch_size), CPU, log, **options)[
        "effective_classes"
    ], log


def test_rm_holds_four_to_five_classes_at_the_papers_threshold():
    """Fig. 7 and its text, "about 4~5": 1,000 classes at 224 px, 100 iterations, 3 runs."""
    values = [measured(RM, seed, batch_size=8)[0] for seed in range(3)]
    assert 4 < np.mean(values) < 5.5
    assert all(3.5 < value < 6.5 for value in values)


@pytest.mark.parametrize(("method", "most"), [("baseline", 1.0), ("mixup", 2.0), ("cutmix", 2.0)])
def test_the_others_hold_as_many_classes_as_they_mix_images(method, most):
    value, log = measured({"name": method}, iterations=20, size=32)
    assert value <= most
    assert value > 0.85 * most
    assert {point["threshold"] for point in log} >= {1e-4}


def test_the_curve_falls_and_passes_through_the_number():
    value, log = measured(RM, iterations=20, size=32)
    curve = [point["effective_classes"] for point in log]
    assert all(a >= b for a, b in itertools.pairwise(curve))
    assert value == next(
        p["effective_classes"] for p in log if abs(p["threshold"] / 1e-4 - 1) < 1e-9
    )


def test_labels_are_those_that_the_method_mixes():
    """Against Eq. 2, written out with the areas that the method says it pasted."""
    method = RecursiveMix(alpha=0.5, omega=0.5)
    model = method.wrap_model(module._Blank(10)).double()
    generator, expected = np.random.default_rng(3), None
    areas = []
    method.register_forward_hook(lambda _m, _i, output: areas.append(output.logs["area"]))
    for step in range(6):
        labels = torch.arange(4) + step
        found = _mixed_labels(method, model, labels, 10, 32, generator)
        area, own = areas[-1], F.one_hot(labels, 10).double()
        expected = own if expected is None else mix_targets(own, expected, area)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    held = _effective(expected, torch.tensor([1e-9, 0.9], dtype=torch.float64))
    assert held.tolist() == [
        (expected > 1e-9).sum(1).double().mean(),
        (expected > 0.9).sum(1).double().mean(),
    ]


def test_a_method_inside_the_network_is_refused():
    with pytest.raises(TrialError, match="acts inside one"):
        measured({"name": "manifold_mixup"})


def test_a_run_directory_of_a_measurement(tmp_path):
    """Journal, provenance, result; finished means finished; interrupted begins again and ends with
    the same number.
    """
    values = TINY | {
        "method": RM,
        "probe": {"name": "effective_classes", "iterations": 8, "size": 16},
    }
    given = load_trial(write_trial(tmp_path / "a", values))
    result = fit(given, tmp_path / "a")
    events = [
        json.loads(line) for line in (tmp_path / "a" / "journal.jsonl").read_text().splitlines()
    ]
    assert [events[0]["event"], events[-1]["event"]] == ["started", "finished"]
    assert sum(event["event"] == "point" for event in events) == len(module.CURVE)
    assert (tmp_path / "a" / "provenance.json").exists()
    assert result == json.loads((tmp_path / "a" / "result.json").read_text())
    assert fit(given, tmp_path / "a") == result

    write_trial(tmp_path / "b", values)
    asked = iter([False] * 5 + [True])
    with pytest.raises(Interrupted):
        fit(given, tmp_path / "b", stop=lambda: next(asked))
    assert not (tmp_path / "b" / "result.json").exists()
    assert fit(given, tmp_path / "b")["metrics"] == result["metrics"]


def test_a_failing_measurement_says_so_in_its_journal(tmp_path):
    given = load_trial(
        write_trial(
            tmp_path, TINY | {"method": {"name": "moex"}, "probe": {"name": "effective_classes"}}
        )
    )
    with pytest.raises(TrialError):
        fit(given, tmp_path)
    assert (
        json.loads((tmp_path / "journal.jsonl").read_text().splitlines()[-1])["event"] == "failed"
    )


def test_probes_are_checked_as_other_choices_are():
    for wrong, message in (
        ({"name": "effective_clases"}, "unknown probe"),
        ({"name": "effective_classes", "iterations": 0}, "iterations >= 1"),
        ({"name": "effective_classes", "sise": 3}, "no option"),
    ):
        with pytest.raises(TrialError, match=message):
            parse_trial(TINY | {"probe": wrong})
    assert parse_trial(TINY).probe is None


TABLE11 = {"backbone": {"name": "imagenet_resnet50"}, "dataset": {"name": "imagenet"}}


def over(of, method=RM, **options):
    log = Points()
    given = parse_trial(
        TINY
        | {"method": method, "train": {"epochs": 1, "batch_size": 4}}
        | options.pop("sections", {})
    )
    return overhead(given, CPU, log, of=of, **options), log


def test_parameters_and_flops_are_table_11s():
    """27.61 M in training, 25.56 M deployed, 4.1 G multiply-adds: nothing is computed for them, so
    they are checked whole.
    """
    trained = over("parameters", sections=TABLE11)[0]
    assert trained == {
        "overhead": pytest.approx(8.02, abs=0.01),
        "value": 27.606032,
        "reference": 25.557032,
    }
    deployed = over("deployed_parameters", sections=TABLE11)[0]
    assert deployed == {"overhead": 0, "value": 25.557032, "reference": 25.557032}
    flops = over("flops", sections=TABLE11)[0]
    assert flops["reference"] == pytest.approx(4.089, abs=0.001)
    assert flops["value"] - flops["reference"] == pytest.approx(2048 * 1000 / 1e9, rel=1e-6)


def test_time_compares_pairs_of_steps():
    found, log = over("time", steps=3, size=16, classes=10)
    assert len(log) == 3
    ratios = sorted(point["value"] / point["reference"] for point in log)
    assert found["overhead"] == pytest.approx(100 * (ratios[1] - 1))
    assert found["value"] == sorted(point["value"] for point in log)[1]
    assert all(point["reference"] > 0 for point in log)


def test_inference_is_timed_with_what_a_method_adds_to_the_network(monkeypatch):
    regions = []
    pool = ResNet.pool_region
    monkeypatch.setattr(ResNet, "pool_region", lambda self, x: regions.append(x) or pool(self, x))
    found, log = over("inference", steps=3, size=16, classes=10)
    assert (len(log), len(regions)) == (3, 5), "RM's second head is read, in warm-up too"
    assert found["value"] > 0


@pytest.mark.cluster
def test_the_history_is_one_batch_of_images_targets_and_logits():
    found, _ = over("history", size=16, classes=10)
    assert found["value"] == 4 * (3 * 16 * 16 + 10 + 10) * 4 / 2**20
    assert found["overhead"] == pytest.approx(100 * found["value"] / found["reference"])
    assert over("history", {"name": "mixup"}, size=16, classes=10)[0]["value"] == 0


@pytest.mark.cluster
def test_memory_is_that_of_the_training():
    """A batch four times the size holds several times as much, whatever this process holds."""
    network = {"backbone": {"name": "resnet8", "width": 16}}
    given = [
        parse_trial(TINY | network | {"train": {"epochs": 1, "batch_size": size}})
        for size in (64, 256)
    ]
    small, large = (_memory(each, CPU, classes=10, size=32) for each in given)
    assert large > small + 20


def test_flops_of_a_method_that_looks_at_its_images_are_refused():
    with pytest.raises(TrialError, match="looks at its images"):
        over("flops", method={"name": "puzzlemix"}, size=32, classes=10)


def test_samples_are_what_goes_in_and_what_the_network_sees():
    """Pixels outside the pasted box are the batch's own; the step before is in the box."""
    log = Points()
    values = TINY | {
        "method": RM,
        "train": {"epochs": 1, "batch_size": 8},
        "dataset": {"name": "digits", "size": 16},
    }
    found = samples(parse_trial(values), CPU, log, steps=4, count=6)
    assert sorted(log.kept) == [f"step{step}.png" for step in (1, 2, 3, 4)]
    for step, point in enumerate(log, 1):
        picture = decode_image(
            torch.frombuffer(bytearray(log.kept[f"step{step}.png"]), dtype=torch.uint8)
        )
        assert picture.shape == (3, 2 * 16, 6 * 16)
        changed = (picture[:, :16] != picture[:, 16:]).any(0).double().mean() * 100
        assert changed <= 100 * point["area"] + 1e-9
        assert point["changed"] >= float(changed) - 1e-9
    assert log[0]["area"] == 0
    assert found["samples"] == pytest.approx(np.mean([point["changed"] for point in log]))


def test_samples_of_the_baseline_are_its_input():
    log = Points()
    values = TINY | {"method": {"name": "baseline"}}
    assert samples(parse_trial(values), CPU, log, steps=1, count=2) == {"samples": 0.0}
    picture = decode_image(torch.frombuffer(bytearray(log.kept["step1.png"]), dtype=torch.uint8))
    assert torch.equal(picture[:, :16], picture[:, 16:])
    assert picture.float().std() > 20, "a real image"


def test_samples_need_enough_images():
    with pytest.raises(TrialError, match="at least as many"):
        samples(parse_trial(TINY), CPU, Points(), steps=6, count=8)
