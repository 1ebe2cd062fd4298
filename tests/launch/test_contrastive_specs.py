"""Pre-training and linear evaluation in a spec: two trials in a plan, and every mistake at its
place.
"""

import textwrap

import pytest

from launch.plan import make_plan
from launch.spec.load import SpecError, load_spec

SPEC = """
    title: "Linear evaluation"
    metric: {name: linear_top1, select: last}
    trial:
      dataset: {name: digits, size: 16, limit: 64, test_limit: 60}
      backbone: {name: resnet8, width: 8}
      method: baseline
      train: {epochs: 1, batch_size: 16}
      optimizer: {name: sgd, lr: 0.1}
      schedule: constant
    rows:
      - {row: random, freeze: random backbone}
      - row: MixUp
        init: {trial: {task: {name: contrastive, queue: 64}, method: mixup}}
        freeze: backbone
"""
DETECTOR = """
    title: "A detector"
    metric: {name: box_ap, select: last}
    trial:
      task: detection
      dataset: coco
      backbone: imagenet_resnet50
      train: {epochs: 1, batch_size: 16}
      optimizer: {name: sgd, lr: 0.1}
      schedule: constant
    rows:
      - {row: ATSS, head: atss}
"""


@pytest.fixture
def write(tmp_path):
    def write(**replacements):
        text = textwrap.dedent(SPEC).lstrip("\n")
        for old, new in replacements.items():
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / "linear.yaml"
        path.write_text(text)
        return path

    return write


def test_pretraining_and_probe_are_two_trials_of_one_plan(write, results):
    spec = load_spec(write())
    cells = {cell.row: cell for cell in spec.cells}
    (probe,) = cells["MixUp"].trials
    (parent,) = cells["MixUp"].parents
    assert "task" not in probe.values
    assert parent.trial.values["task"]["name"] == "contrastive"
    assert "freeze" not in parent.trial.values
    assert not cells["random"].parents
    plan = make_plan([spec], results / "runs")
    assert len(plan.unique) == 3
    assert plan.parents(probe.id) == [parent.trial.id]
    order = [use.trial.id for use in plan.to_run()]
    assert order.index(parent.trial.id) < order.index(probe.id)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("queue: 64", "queue: 63", "task.queue % train.batch_size == 0: the queue takes whole"),
        ("method: mixup}", "method: moex}", "'moex' is not for task 'contrastive'; valid: "),
        (
            "method: mixup}",
            "dataset: coco}",
            "13:67: dataset 'coco' is not for task 'contrastive'",
        ),
        ("freeze: random backbone", "schedule: cosine", "'linear_top1' goes with a frozen backb"),
        ("queue: 64", "queue: 64, dims: 3", "task 'contrastive' has no option 'dims'"),
        ("method: baseline", "method: {name: mixup, alpha: 0}", "method.alpha"),
    ],
)
def test_mistakes_are_located(write, old, new, expected):
    with pytest.raises(SpecError) as caught:
        load_spec(write(**{old: new}))
    assert expected in str(caught.value)


def test_a_detector_is_no_parent_of_a_probe(write, tmp_path):
    (tmp_path / "detector.yaml").write_text(textwrap.dedent(DETECTOR).lstrip("\n"))
    nested = "trial: {task: {name: contrastive, queue: 64}, method: mixup}"
    path = write(**{nested: "from: detector, row: ATSS"})
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    expected = "linear.yaml:13:33: 'ATSS' is of task 'detection': it leaves no backbone"
    assert expected in str(caught.value)
