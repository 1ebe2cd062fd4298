"""Searches as specs write them: what they resolve to, what is drawn, who wins, and every mistake
located.
"""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.spec.load import SpecError, load_spec, with_winner
from launch.spec.search import Dimension, SampleResult, winner
from rm.metrics import METRICS

SEARCH = """
    # a small search
    title: "A small search"
    metric: {name: top1_error, select: last}
    seeds: [0, 1]
    trial:
      dataset: {name: digits, size: 16, limit: 70, test_limit: 60}
      backbone: {name: resnet8, width: 8}
      method: recursive_mix
      train: {epochs: 8, batch_size: 16}
      optimizer: {name: sgd, lr: 0.05}
      schedule: {name: cosine}
    search:
      space:
        method.alpha: {uniform: [0.1, 1.0]}
        method.omega: {loguniform: [0.01, 2.0]}
      held_out: 100
      samples: 6
      seed: 3
      scheduler: {name: asha, grace_epochs: 2, reduction_factor: 2}
    rows:
      - {row: Baseline, method: baseline}
    claims: ["winner < Baseline"]
    profiles:
      smoke: {train.epochs: 1, seeds: [3], search: {samples: 2, scheduler: none}}
"""


@pytest.fixture
def write(write_spec):
    return lambda text=SEARCH, **replacements: write_spec(text, "search.yaml", **replacements)


def mistakes(path):
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


def test_a_search_is_resolved_and_its_samples_are_known_beforehand(write):
    spec = load_spec(write())
    search = spec.search
    assert (search.samples, search.seed, search.held_out, search.metric) == (
        6,
        3,
        100,
        "top1_error",
    )
    assert (search.scheduler.name, search.scheduler.grace_epochs, search.epochs) == ("asha", 2, 8)
    assert [cell.labels for cell in spec.cells] == [("Baseline",)]
    samples = search.drawn()
    assert [sample.number for sample in samples] == [1, 2, 3, 4, 5, 6]
    for sample in samples:
        values = sample.trial.values
        assert values["dataset"]["held_out"] == 100, "a sample never sees the test set"
        assert values["seed"] == 3
        assert values["method"]["alpha"] == sample.point["method.alpha"]
        assert values["method"]["omega"] == sample.point["method.omega"]
    assert len({sample.trial.id for sample in samples}) == 6
    assert [s.trial.id for s in load_spec(write()).search.drawn()] == [s.trial.id for s in samples]
    point = samples[0].point
    assert (
        samples[0].label
        == f"sample 1: alpha {point['method.alpha']}, omega {point['method.omega']}"
    )


def test_the_winners_trials_are_those_of_a_spec_that_writes_its_values(write):
    spec = load_spec(write())
    sample = spec.search.drawn()[1]
    found = with_winner(spec, SampleResult(sample, "finished", 8, 3.0, 0.1)).cells[-1]
    assert found.labels == ("winner",)
    point = {key.rpartition(".")[2]: value for key, value in sample.point.items()}
    method = (
        f"{{row: Baseline, method: {{name: recursive_mix, alpha: {point['alpha']}, omega: "
        f"{point['omega']}}}}}"
    )
    written = load_spec(write(**{"{row: Baseline, method: baseline}": method}))
    assert [trial.id for trial in found.trials] == [trial.id for trial in written.cells[0].trials]
    assert [trial.seed for trial in found.trials] == [0, 1]
    assert {trial.values["dataset"]["held_out"] for trial in found.trials} == {0}
    assert "sample 2 of 6" in found.assumed["method.alpha"]


def test_of_an_accuracy_the_largest_wins(write):
    search = load_spec(write(**{"seed: 3": "seed: 3\n  metric: top1_accuracy"})).search
    assert search.objective.better == "higher"
    assert search.value_of({"test_top1_error": 30.0}) == 70.0
    assert search.value_of({"train_loss": 1.0}) is None
    results = [
        SampleResult(sample, "finished", 8, value, 0.1)
        for sample, value in zip(search.drawn(), (60.0, 80.0, 70.0, 80.0, 10.0, 20.0), strict=True)
    ]
    assert winner(results, 6, search.objective).sample.number == 2, "the earlier of equal ones"


def test_a_profile_changes_keys_of_the_search(write):
    full, smoke = load_spec(write()), load_spec(write(), "smoke")
    assert (smoke.search.samples, smoke.search.scheduler.name, smoke.search.held_out) == (
        2,
        "none",
        100,
    )
    assert full.search.digest != smoke.search.digest
    assert not {s.trial.id for s in full.search.drawn()} & {
        s.trial.id for s in smoke.search.drawn()
    }


def test_more_samples_are_the_same_search_and_anything_else_is_another(write):
    spec, longer = load_spec(write()), load_spec(write(**{"samples: 6": "samples: 9"}))
    assert spec.search.digest == longer.search.digest
    assert [s.trial.id for s in longer.search.drawn()][:6] == [
        s.trial.id for s in spec.search.drawn()
    ]
    for old, new in (
        ("[0.1, 1.0]", "[0.2, 1.0]"),
        ("seed: 3", "seed: 4"),
        ("grace_epochs: 2", "grace_epochs: 1"),
        ("held_out: 100", "held_out: 101"),
        ("lr: 0.05", "lr: 0.06"),
    ):
        assert load_spec(write(**{old: new})).search.digest != spec.search.digest


@given(st.integers(0, 10**6), st.floats(1e-6, 1e3), st.floats(1.001, 1e4))
def test_what_is_drawn_lies_within_its_bounds_and_has_four_digits(seed, low, factor):
    high = low * factor
    for kind in ("uniform", "loguniform"):
        value = Dimension("method.alpha", kind, (low, high)).draw(Random(seed))
        assert low <= value <= high
        assert value in (low, high, float(f"{value:.4g}"))


def test_each_kind_draws_what_it_says():
    random = Random(0)
    assert {Dimension("k", "int", (1, 3)).draw(random) for _ in range(60)} == {1, 2, 3}
    assert {Dimension("k", "choice", ("a", "b")).draw(random) for _ in range(60)} == {"a", "b"}
    logs = [math.log10(Dimension("k", "loguniform", (1e-4, 1.0)).draw(random)) for _ in range(400)]
    assert 0.4 < sum(value < -2 for value in logs) / 400 < 0.6, (
        "half of the samples in half of the decades"
    )


def test_the_winner_is_the_best_finished_sample_once_all_are_decided(write):
    samples = load_spec(write()).search.drawn()

    def tried(*ends):
        return [SampleResult(sample, *end) for sample, end in zip(samples, ends, strict=False)]

    finished = [("finished", 8, 5.0, 0.3), ("finished", 8, 4.0, 0.3), ("finished", 8, 4.0, 0.2)]
    assert winner(tried(*finished), 4, METRICS["top1_error"]) is None, "one of four is not decided"
    assert (
        winner(
            [*tried(*finished), SampleResult(samples[3], "undecided")], 4, METRICS["top1_error"]
        )
        is None
    )
    assert (
        winner(tried(*finished, ("stopped", 2, 1.0, 0.1)), 4, METRICS["top1_error"]).sample.number
        == 3
    ), "a stopped one never wins"
    assert winner(tried(*finished[:2], ("failed",)), 3, METRICS["top1_error"]).sample.number == 2
    assert winner(tried(("failed",), ("stopped", 2, 1.0, 0.1)), 2, METRICS["top1_error"]) is None


@pytest.mark.parametrize(
    ("replace", "expected"),
    [
        ({"samples: 6": "sample: 6"}, "17:3: a search has no 'sample'; did you mean 'samples'?"),
        ({"  samples: 6\n": ""}, "12:1: a search needs 'samples'"),
        (
            {"samples: 6": "samples: 0"},
            "17:12: search.samples: must satisfy samples >= 1, found 0",
        ),
        (
            {"held_out: 100": "held_out: many"},
            "16:13: search.held_out: must be a whole number, found 'many'",
        ),
        (
            {"seed: 3\n": "metric: accuracy\n"},
            "18:11: search.metric: unknown metric 'accuracy'; did you mean 'top5_accuracy'",
        ),
        (
            {"seed: 3\n": "algorithm: optuma\n"},
            "18:14: search.algorithm: must be 'random' or 'optuna'",
        ),
        ({"name: asha": "name: asah"}, "19:21: unknown scheduler 'asah'; did you mean 'asha'?"),
        (
            {"scheduler: {name: asha, grace_epochs: 2, reduction_factor: 2}": "scheduler: fifo"},
            "19:14: unknown scheduler 'fifo'",
        ),
        (
            {"name: asha, grace_epochs: 2": "name: median"},
            "19:29: scheduler 'median' has no 'reduction_factor'; valid: grace_epochs, "
            "least_samples",
        ),
        (
            {"grace_epochs: 2": "grace_epochs: 9"},
            "19:41: grace_epochs must be at most the trial's epochs, 8, found 9",
        ),
        (
            {"reduction_factor: 2": "reduction_factor: 1"},
            "19:62: search.scheduler.reduction_factor: must satisfy reduction_factor > 1",
        ),
        (
            {"method.alpha: {uniform": "method.alhpa: {uniform"},
            "14:5: method 'recursive_mix' has no option 'alhpa'",
        ),
        (
            {"method.alpha: {uniform": "alpha: {uniform"},
            "14:5: a key of the space is dotted, such as method.alpha; found 'alpha'",
        ),
        ({"{uniform:": "{unifrom:"}, "14:20: unknown 'unifrom'; did you mean 'uniform'?"),
        ({"{uniform: [0.1, 1.0]}": "0.5"}, "14:19: method.alpha: expected one of {uniform: ...}"),
        (
            {"[0.1, 1.0]": "[1.0, 0.1]"},
            "14:29: method.alpha: uniform takes [low, high] with low < high, found [1.0, 0.1]",
        ),
        (
            {"[0.1, 1.0]": "[0.1, 1.5]"},
            "14:35: method.alpha: must satisfy 0 < alpha <= 1, found 1.5",
        ),
        (
            {"[0.01, 2.0]": "[0, 2.0]"},
            "15:32: method.omega: loguniform takes numbers above 0, found [0, 2.0]",
        ),
        (
            {"{loguniform: [0.01, 2.0]}": "{int: [0.5, 2]}"},
            "15:25: method.omega: int takes [low, high], two whole numbers",
        ),
        (
            {"{loguniform: [0.01, 2.0]}": "{choice: [1, 1]}"},
            "15:28: method.omega: choice takes a list of different values",
        ),
        (
            {"method.omega: {loguniform: [0.01, 2.0]}": "train.batch_size: {uniform: [8, 16]}"},
            "15:34: train.batch_size: must be a whole number",
        ),
        (
            {
                "method.alpha: {uniform: [0.1, 1.0]}\n": "",
                "    method.omega: {loguniform: [0.01, "
                "2.0]}": "method.omega: {choice: [0.1, 0.2]}",
            },
            "the space has no 6 different points: 2 were found",
        ),
        (
            {"test_limit: 60": "held_out: 5"},
            "16:13: the trial of a search has no dataset.held_out of its own",
        ),
        ({"row: Baseline": "row: winner"}, "21:11: the row 'winner' is the search's own"),
        (
            {"winner < Baseline": "winer < Baseline"},
            "22:10: claim about unknown label 'winer'; did you mean 'winner'?",
        ),
        (
            {
                "rows:\n  - {row: Baseline, method: "
                "baseline}": "axes: {method: {Baseline: baseline}}"
            },
            "a spec that searches has rows",
        ),
        ({"search: {samples: 2, scheduler: none}": "search: {samples: 0}"}, None),
        (
            {"search: {samples: 2, scheduler: none}": "search: 3"},
            "24:40: a profile's search is a mapping",
        ),
    ],
)
def test_mistakes_are_located(write, replace, expected):
    path = write(**replace)
    if expected is None:  # a mistake in a profile's numbers shows when that profile is asked for
        with pytest.raises(
            SpecError,
            match=r"24:58: search\.samples: must satisfy samples >= 1, found 0",
        ):
            load_spec(path, "smoke")
        return
    assert any(expected in line for line in mistakes(path)), mistakes(path)


def test_several_mistakes_at_once(write):
    path = write(
        **{
            "[0.1, 1.0]": "[0.1, 2.0]",
            "held_out: 100": "held_out: 0",
            "name: asha": "name: ash",
            "lr: 0.05": "lr: -1",
        }
    )
    lines = [line.split(": ")[0] for line in mistakes(path)]
    assert lines == ["10:30", "14:35", "16:13", "19:21"]
