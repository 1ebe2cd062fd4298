"""What a trial's identity is made of."""

import json

import rm
from launch.spec.load import load_spec
from launch.spec.trial import Trial, trial_id
from tests.support.trials import ROOT


def test_the_short_way_to_an_id_is_the_long_one():
    """Every spec and profile, with and without a probe."""
    for path in sorted((ROOT / "experiments").rglob("*.yaml")):
        spec = load_spec(path)
        for trial in (
            trial
            for profile in (None, *spec.profiles)
            for trial in load_spec(path, profile).trials
        ):
            assert trial.id == trial_id(trial.values) == Trial(trial.values).id


def test_seeds_share_their_sections_and_nothing_else():
    sections = {"train": {"epochs": 3}, "backbone": {"name": "é", "width": 0.1}}
    one, two = Trial.for_seeds(sections, (4, 5), {})
    assert (one.seed, two.seed) == (4, 5)
    assert one.id == trial_id({**sections, "seed": 4})
    assert two.id == trial_id({**sections, "seed": 5}) != one.id


def test_a_tasks_numerics_change_the_ids_of_its_trials_alone(monkeypatch):
    classified = {"seed": 0, "train": {"epochs": 3}}
    detected = {**classified, "task": {"name": "detection"}}
    before = trial_id(classified), trial_id(detected)
    monkeypatch.setattr("rm.NUMERICS_OF_TASKS", {"detection": 9})
    assert trial_id(classified) == before[0]
    assert trial_id(detected) != before[1]
    (of_seeds,) = Trial.for_seeds(
        {"train": {"epochs": 3}, "task": {"name": "detection"}}, (0,), {}
    )
    assert of_seeds.id == trial_id(detected)
    assert json.loads(of_seeds.to_json())["numerics"] == rm.NUMERICS + 9


def test_every_trial_of_the_specs_keeps_its_id():
    """`trial_ids.json` was written when the specs were: what is finished stays finished."""
    known = json.loads((ROOT / "tests" / "launch" / "trial_ids.json").read_text(encoding="utf-8"))
    for key, ids in known.items():
        name, _, profile = key.removesuffix(")").partition(" (")
        spec = load_spec(ROOT / "experiments" / f"{name}.yaml", profile or None)
        found = [trial.id for trial in spec.trials]
        if spec.search is not None:
            found += [sample.trial.id for sample in spec.search.drawn()]
        assert found == ids, key
