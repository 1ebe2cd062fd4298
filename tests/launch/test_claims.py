"""Metrics and claims of a spec: which ones it may have, and how they are read."""

import pytest

from launch.spec.load import SpecError, load_spec


def spec_with(write_spec, text="", **replace):
    return write_spec(**{"claims": f"{text}\nclaims"} if text else {}, **replace)


def mistakes(path, profile=None):
    with pytest.raises(SpecError) as caught:
        load_spec(path, profile)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("text", "chain", "by", "within", "sign"),
    [
        ("RM < Baseline", ("RM", "Baseline"), 0.0, None, "<"),
        ("RM > Baseline", ("Baseline", "RM"), 0.0, None, ">"),
        ("RM > Baseline by 0.5", ("Baseline", "RM"), 0.5, None, ">"),
        ("RM < Baseline by 1", ("RM", "Baseline"), 1.0, None, "<"),
        ("RM, Baseline within 0.3", ("RM", "Baseline"), 0.0, 0.3, "<"),
    ],
)
def test_a_claim_is_read_as_arithmetic(write_spec, text, chain, by, within, sign):
    (claim,) = load_spec(write_spec(**{"RM < Baseline": text})).claims
    assert (claim.text, claim.chain) == (text, chain)
    assert (claim.by, claim.within, claim.sign) == (by, within, sign)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RM < Baseline by much", "a claim reads 'A < B', 'A > B by 0.5', or 'A, B within 0.3'"),
        ("RM < Baseline by -1", "a claim reads 'A < B'"),
        ("RM < Baseline > RM", "with < or > and not both"),
        ("RM > Baselin", "claim about unknown label 'Baselin'; did you mean 'Baseline'?"),
        ("RM", "found 'RM'"),
    ],
)
def test_what_is_no_claim_is_located(write_spec, text, expected):
    (line,) = mistakes(write_spec(**{"RM < Baseline": text}))
    assert line.startswith("14:10: ")
    assert expected in line


def test_a_label_may_end_as_a_margin_does(write_spec):
    path = write_spec(
        **{"Baseline: baseline": '"x by 2": baseline', "RM < Baseline": "RM < x by 2"}
    )
    assert load_spec(path).claims[0].chain == ("RM", "x by 2")


def test_an_accuracy_is_a_metric_of_classification(write_spec):
    text = "metric: {name: top1_accuracy, select: last, also: [top5_accuracy]}"
    spec = load_spec(spec_with(write_spec, text))
    assert spec.metric.metric.better == "higher"
    assert [view.metric.name for view in spec.views] == ["top1_accuracy", "top5_accuracy"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metric: {name: top1_acuracy}", "14:16: metric.name: unknown metric 'top1_acuracy'; did"),
        ("metric: {also: [miuo]}", "14:17: metric.also: unknown metric 'miuo'"),
        ("metric: {selekt: best}", "14:10: a metric has no 'selekt'; did you mean 'select'?"),
        ("metric: {select: first}", "14:18: metric.select: must be 'best', 'last', "),
        ("metric: {select: measured}", "select must be best, last or median_last_10 for top1"),
        ("metric: {name: samples, select: measured}", "goes with probe 'samples', but 'Baseline'"),
        (
            "metric: {select: median_last_10}",
            "14:18: median_last_10 needs 10 evaluated epochs in the last tenth of training, but "
            "'Baseline' has 1 (train.epochs 2, train.evaluate_every 1); valid: best, last, or",
        ),
    ],
)
def test_a_metric_that_cannot_be_is_located(write_spec, text, expected):
    found = mistakes(spec_with(write_spec, text))
    assert any(expected in line for line in found), found


def test_the_median_needs_ten_evaluations_unless_a_profile_is_chosen(write_spec):
    text = "metric: {select: median_last_10}"
    long = {"epochs: 2": "epochs: 100"}
    assert load_spec(spec_with(write_spec, text, **long)).metric.select == "median_last_10"
    rare = {"epochs: 2": "epochs: 100, evaluate_every: 2"}
    assert "'Baseline' has 5 (" in mistakes(spec_with(write_spec, text, **rare))[0]
    path = spec_with(write_spec, text, **long)
    assert load_spec(path, "smoke").metric.select == "median_last_10"
    own = {**long, "smoke: {": "smoke: {metric.select: last, "}
    path = spec_with(write_spec, text, **own)
    assert load_spec(path, "smoke").metric.select == "last"
    assert load_spec(path).metric.select == "median_last_10"
