"""The loop: formulas, results, and that an interrupted or killed run ends with exactly the numbers
of an undisturbed one.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from rm import registry
from rm.optimizers import ParameterGroup
from rm.rundir.journal import read
from rm.schedules import Progress, constant, cosine, step
from rm.train import Diverged, Interrupted, fit
from rm.trainer import Trainer
from rm.trial import TrialError, load_trial, parse_trial
from tests.support.rm.training import assert_equal_runs, train
from tests.support.trials import PATIENCE, ROOT, deterministic, write_trial

OPTIONS = {"recursive_mix": {"alpha": 0.9, "omega": 0.5}}
METHODS = sorted(
    name
    for name, entry in registry.entries("method").items()
    if "classification" in (entry.tasks or ("classification",))
)
METHODS.remove(
    "stylecutmix"
)  # needs files; tests/rm/test_style.py interrupts it, with files it makes
STEPS_PER_EPOCH = 5


@pytest.mark.parametrize("name", METHODS)
def test_interrupted_equals_undisturbed_bit_for_bit(tiny, tmp_path, name):
    tiny["method"] = {"name": name, **OPTIONS.get(name, {})}
    train(tiny, tmp_path / "undisturbed")
    train(
        tiny, tmp_path / "stopped", stop_before=(3, 4, 6)
    )  # inside epochs 1 and 2, and at the end of one
    assert_equal_runs(tmp_path / "undisturbed", tmp_path / "stopped")
    events = [event["event"] for event in read(tmp_path / "stopped" / "journal.jsonl")]
    assert events.count("resumed") == 3
    assert events[0] == "started"
    assert events[-1] == "finished"


@pytest.mark.parametrize("stop", range(1, 3 * STEPS_PER_EPOCH))
def test_recursive_mix_can_stop_before_any_step(tiny, tmp_path_factory, stop):
    undisturbed = tmp_path_factory.getbasetemp() / "recursive-mix-undisturbed"
    train(tiny, undisturbed)
    stopped = tmp_path_factory.mktemp("stopped")
    train(tiny, stopped, stop_before=(stop,))
    assert_equal_runs(undisturbed, stopped)


def test_kill_9_in_mid_epoch_loses_nothing(tiny, tmp_path):
    """A real process, checkpointing at every step, killed at no particular moment, twice; then run
    to the end.
    """
    tiny["train"]["epochs"] = 8
    tiny["dataset"]["size"] = 32
    train(tiny, tmp_path / "undisturbed")
    killed = tmp_path / "killed"
    command = [
        sys.executable,
        "-m",
        "rm.train",
        str(write_trial(killed, tiny)),
        str(killed),
        "--checkpoint-seconds",
        "0",
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
    }
    for enough in (4, 19):
        with subprocess.Popen(command, env=environment) as process:
            deadline = time.monotonic() + PATIENCE
            while (
                sum(event["event"] == "checkpoint" for event in read(killed / "journal.jsonl"))
                < enough
            ):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        assert not (killed / "result.json").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_equal_runs(tmp_path / "undisturbed", killed)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tiny, tmp_path):
    train(tiny, tmp_path / "undisturbed")
    folder = tmp_path / "damaged"
    remaining = iter(range(8))
    write_trial(folder, tiny)
    with pytest.raises(Interrupted):
        fit(
            parse_trial(tiny),
            folder,
            stop=lambda: next(remaining, None) is None,
            checkpoint_seconds=0,
        )
    data = bytearray((folder / "checkpoint.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "checkpoint.pt").write_bytes(data)
    train(tiny, folder)
    assert_equal_runs(tmp_path / "undisturbed", folder)


def test_convolutions_are_deterministic_unless_a_trial_waives_it(tiny, tmp_path, monkeypatch):
    """One process trains many trials: what one waived holds for the next again."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)  # restored at the end
    tiny["train"]["epochs"] = 1
    waived = {**tiny, "train": {**tiny["train"], "deterministic": False}}
    for name, values, wanted in (("one", tiny, True), ("two", waived, False), ("3", tiny, True)):
        train(values, tmp_path / name)
        assert torch.backends.cudnn.deterministic is wanted


def test_a_finished_run_is_not_run_again(tiny, tmp_path):
    first = train(tiny, tmp_path)
    before = (tmp_path / "journal.jsonl").read_bytes()
    assert train(tiny, tmp_path) == first
    assert (tmp_path / "journal.jsonl").read_bytes() == before


def test_results_select_best_last_and_median(tiny, tmp_path):
    result = train(tiny, tmp_path)["metrics"]
    errors = [epoch["test_top1_error"] for epoch in deterministic(tmp_path)]
    assert result["best_top1_error"] == min(errors)
    assert result["last_top1_error"] == errors[-1]
    assert "median_last_10_top1_error" not in result, "three epochs are no ten"
    assert result["best_epoch"] == max(n for n, e in enumerate(errors, 1) if e == min(errors))


def test_evaluation_can_be_rarer(tiny, tmp_path):
    tiny["train"] |= {"epochs": 5, "evaluate_every": 2}
    result = train(tiny, tmp_path)["metrics"]
    errors = [epoch.get("test_top1_error") for epoch in deterministic(tmp_path)]
    assert [error is None for error in errors] == [True, False, True, False, False]
    assert result["last_top1_error"] == errors[4]
    assert result["best_top1_error"] == min(error for error in errors if error is not None)


def test_evaluation_counts_every_image_once(tiny, monkeypatch):
    """Whatever the size of an evaluation batch, an uneven last one included."""
    run = Trainer(parse_trial(tiny), torch.device("cpu"))
    whole = run.evaluate()
    monkeypatch.setattr("rm.tasks.classification.EVALUATION_BATCH", 7)
    parts = run.evaluate()
    assert whole == pytest.approx(parts)
    images, labels = run.task.test_images.plain(slice(0, 60))
    with torch.no_grad():
        wrong = (run.task.model.eval()(images).argmax(1) != labels).float().mean().item()
    assert whole["test_top1_error"] == pytest.approx(100 * wrong)


def test_same_seed_same_start_whatever_the_method(tiny):
    """Claims are paired by seed: methods share initial weights, order and crops."""
    states = []
    for name in ("baseline", "recursive_mix"):
        run = Trainer(parse_trial({**tiny, "method": {"name": name}}), torch.device("cpu"))
        states.append(
            {
                k.removeprefix("backbone."): v
                for k, v in run.task.model.state_dict().items()
                if "second" not in k
            }
        )
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_divergence_is_named_and_never_saved(tiny, tmp_path):
    tiny["optimizer"]["lr"] = 1e30
    with pytest.raises(Diverged, match=r"not finite at step \d+ of epoch 1 \(lr "):
        train(tiny, tmp_path)
    events = read(tmp_path / "journal.jsonl")
    assert events[-1]["event"] == "failed"
    assert "Diverged" in events[-1]["traceback"]
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains(tiny, tmp_path, precision):
    tiny["train"] |= {
        "precision": precision,
        "batch_norm_groups": 2,
        "label_smoothing": 0.1,
        "clip_norm": 5.0,
    }
    assert train(tiny, tmp_path)["metrics"]["best_top1_error"] < 95


def test_schedules_by_hand():
    def at(schedule, epochs, total, **options):
        return [schedule(Progress(epoch, total), **options) for epoch in epochs]

    assert at(cosine, (1, 3), 4) == pytest.approx([1.0, 0.5])
    assert at(cosine, (1, 5), 200, warmup_epochs=5) == pytest.approx([1 / 6, 5 / 6])
    half = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 5 / 200)).item())
    assert at(cosine, (6,), 200, warmup_epochs=5) == pytest.approx([half])
    # Released curves: the error falls in epochs 151 and 226.
    drops = at(step, (150, 151, 225, 226), 300, milestones=[150, 225])
    assert drops == pytest.approx([1.0, 0.1, 0.1, 0.01])
    assert at(step, (3,), 300, milestones=[150], warmup_epochs=5) == [0.5]
    assert at(constant, (9,), 10) == [1.0]


def test_progress_counts_steps_of_the_whole_training():
    at = Progress(epoch=3, epochs=4, step=5, steps_per_epoch=10)
    assert (at.steps_done, at.total_steps, at.fraction) == (25, 40, 0.625)
    assert Progress(1, 4, 0, 10).fraction == 0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimizers_take_torchs_own_steps(name):
    """Ours leave out an import, nothing else: same weights after five steps as the plain class."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5))
    other = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5))
    other.load_state_dict(model.state_dict())
    groups = [ParameterGroup(list(model.parameters()))]
    ours = registry.load("optimizer", name)(groups, lr=0.1, weight_decay=0.01, decay="all")
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    plain = kind(
        other.parameters(),
        lr=0.1,
        weight_decay=0.01,
        fused=True,
        **({"momentum": 0.9} if name == "sgd" else {}),
    )
    for _ in range(5):
        images = torch.randn(6, 4)
        for network, optimizer in ((model, ours), (other, plain)):
            optimizer.zero_grad()
            network(images).square().sum().backward()
            optimizer.step()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )
    groups = registry.load("optimizer", name)(
        groups, lr=0.1, weight_decay=0.01, decay="weights"
    ).param_groups
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(0.01, 1), (0.0, 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": {"name": "cutmx"}}, "unknown method 'cutmx'; did you mean 'cutmix'"),
        (
            {"method": {"name": "cutmix", "alpa": 1.0}},
            "method 'cutmix' has no option 'alpa'; did you mean 'alpha'",
        ),
        (
            {"method": {"name": "cutmix", "alpha": -1.0}},
            "method.alpha: must satisfy alpha > 0, found -1.0",
        ),
        ({"train": {"epochs": 1}}, "train needs 'batch_size'"),
        (
            {"train": {"epochs": 1, "batch_size": 2, "precision": "int8"}},
            "must be 'fp32', 'bf16' or 'fp16'",
        ),
        ({"seed": -1}, "seed must be a whole number"),
        ({"colour": {}}, r"unknown sections \['colour'\]"),
    ],
)
def test_a_bad_trial_is_named(tiny, change, message):
    with pytest.raises(TrialError, match=message):
        parse_trial({**tiny, **change})


def test_other_numerics_are_refused(tiny, tmp_path):
    with pytest.raises(TrialError, match="written for numerics 0"):
        load_trial(write_trial(tmp_path, {**tiny, "numerics": 0}))


def test_the_command_trains_with_nothing_of_launch_installed(tiny, tmp_path):
    """`python -m rm.train` in a folder that holds a copy of rm and nothing else of ours."""
    (tmp_path / "rm").symlink_to(ROOT / "rm")
    path = write_trial(tmp_path / "in", tiny)
    code = (
        "import sys; sys.modules['launch'] = sys.modules['pydantic'] = "
        "sys.modules['mlflow'] = "
        "None\n"
    )
    code += "from rm.train import main; sys.exit(main(sys.argv[1:]))"
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    words = [sys.executable, "-c", code, str(path), str(tmp_path / "run")]
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["last_top1_error"] >= 0
    path.write_text("{}", encoding="utf-8")
    done = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "missing sections" in done.stderr
    assert "Traceback" not in done.stderr
