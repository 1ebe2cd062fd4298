"""Longest first, by what is known."""

import copy
import itertools
import json

from launch.backends.scheduling import balance, longest_first
from tests.support.trials import TINY, write_trial


def trial(runs, name, *, epochs, limit=70, seed=0, seconds=None):
    values = copy.deepcopy(TINY)
    values["train"]["epochs"], values["dataset"]["limit"], values["seed"] = epochs, limit, seed
    write_trial(runs / name, values)
    if seconds:
        event = {"event": "epoch", "time": 0.0, "epoch": 1, "epoch_seconds": seconds}
        (runs / name / "journal.jsonl").write_text(json.dumps(event) + "\n")
    return runs / name


def names(run_dirs):
    return [run_dir.name for run_dir in run_dirs]


def test_more_epochs_and_more_images_are_longer(tmp_path):
    runs = [
        trial(tmp_path, "a", epochs=2),
        trial(tmp_path, "b", epochs=5),
        trial(tmp_path, "c", epochs=3, limit=700),
        trial(tmp_path, "d", epochs=1, limit=None),
        trial(tmp_path, "e", epochs=2, seed=1),
    ]
    assert names(longest_first(runs)) == ["d", "c", "b", "a", "e"], "equals stay in order"
    assert longest_first([]) == []


def test_measured_seconds_count_more_than_images(tmp_path):
    trial(tmp_path, "seen", epochs=9, seed=7, seconds=100.0)
    runs = [
        trial(tmp_path, "a", epochs=4, limit=71),
        trial(tmp_path, "b", epochs=3),
        trial(tmp_path, "c", epochs=5),
    ]
    assert names(longest_first(runs)) == ["c", "a", "b"], "those unseen at the pace of the seen"
    trial(tmp_path, "slow", epochs=1, limit=71, seed=9, seconds=500.0)
    assert names(longest_first(runs)) == ["a", "c", "b"]


def test_a_broken_trial_does_not_stop_the_others(tmp_path):
    good = trial(tmp_path, "good", epochs=2)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "trial.json").write_text("{ not json")
    assert set(longest_first([tmp_path / "bad", good])) == {tmp_path / "bad", good}


def test_jobs_that_share_many_trials_are_as_long_as_each_other():
    lengths = sorted([5, 10, 20, 40, 80, 160] * 10, reverse=True)
    for tasks in (2, 7, 20):
        shares = balance(lengths, tasks)
        assert sorted(itertools.chain(*shares), reverse=True) == lengths
        assert {len(hand) for hand in shares} <= {len(lengths) // tasks, -(-len(lengths) // tasks)}
        assert max(map(sum, shares)) - min(map(sum, shares)) <= lengths[0]
        assert all(hand == sorted(hand, reverse=True) for hand in shares), (
            "each job begins with its longest"
        )
    assert max(map(sum, balance(lengths, 2))) < 1.02 * sum(lengths) / 2
