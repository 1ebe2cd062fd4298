"""What a trial's identity is made of."""

from launch.spec.load import load_spec
from launch.spec.trial import Trial, trial_id
from tests.conftest import ROOT


def test_the_short_way_to_an_id_is_the_long_one():
    """Every spec and profile, with and without a probe."""
    for path in sorted((ROOT / "experiments").glob("*.yaml")):
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
