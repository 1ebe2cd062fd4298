"""A search in the records: samples found by their tags, the winner by the launcher's rule, and the
figure of both.
"""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from analysis import figures
from analysis.collect import collect
from analysis.page.sentences import summary
from analysis.page.view import View
from analysis.records.load import COLUMNS, EXPERIMENT
from analysis.records.searches import sample_runs, with_search_results
from launch.spec.load import Spec, TableMetric
from launch.spec.search import Asha, Dimension, SampleResult, Search
from tests.support.analysis.samples import rows_spec

BASE = {
    "dataset": {"name": "digits", "held_out": 0},
    "method": {"name": "recursive_mix", "alpha": 0.5, "omega": 0.1},
    "train": {"epochs": 20},
}
SPACE = (
    Dimension("method.alpha", "uniform", (0.1, 1.0)),
    Dimension("method.omega", "loguniform", (0.01, 2.0)),
)
ENDS = [("finished", 20), ("stopped", 5), ("finished", 20), ("stopped", 10)]
LAST = [4.0, 60.0, 3.0, 30.0]


def search_spec() -> Spec:
    search = Search(SPACE, "top1_error", 4, 0, Asha(grace_epochs=5), "random", 500, BASE)
    spec = replace(
        rows_spec(),
        path=Path("experiments/hunt.yaml"),
        metric=TableMetric(select="last"),
        claims=(),
        figures=(),
    )
    return replace(spec, cells=spec.cells[:1], search=search)


def tried(spec: Spec) -> tuple[SampleResult, ...]:
    samples = spec.search.drawn()
    ends = zip(samples, ENDS, LAST, strict=True)
    return tuple(
        SampleResult(s, state, epoch, value, 0.1, f"run-{s.number}")
        for s, (state, epoch), value in ends
    )


def with_samples(spec: Spec, some: tuple[SampleResult, ...]) -> Spec:
    return replace(spec, search=replace(spec.search, tried=some))


def curves(spec: Spec):
    rows = []
    for one in spec.search.tried:
        rows += [
            (one.run_id, epoch, one.value * one.epoch / epoch)
            for epoch in range(5, one.epoch + 1, 5)
        ]
    frame = pd.DataFrame(rows, columns=["run_id", "epoch", "value"])
    return lambda metric: frame if metric == "test_top1_error" else frame[:0]


def render(spec: Spec, **options):
    return figures.render("search", spec, pd.DataFrame(), curves(spec), options)


def texts(figure):
    svg = figures.to_bytes(figure, "svg", "test").decode()
    return " ".join(
        "".join(n.itertext()) for n in ElementTree.fromstring(svg).iter() if n.tag.endswith("text")
    )


def test_the_figure_holds_every_sample_with_its_curve_and_the_winner():
    spec = search_spec()
    figure, data = render(with_samples(spec, tried(spec)))
    assert list(data.columns) == ["sample", "x", "y", "state", "winner", "epoch", "value"]
    assert data.groupby("sample")["epoch"].max().to_dict() == {1: 20, 2: 5, 3: 20, 4: 10}
    assert data.groupby("sample")["value"].last().to_dict() == {1: 4.0, 2: 60.0, 3: 3.0, 4: 30.0}
    assert set(data[data["winner"]]["sample"]) == {3}
    place = spec.search.drawn()[2].point
    assert set(data[data["sample"] == 3]["x"]) == {place["method.alpha"]}
    assert set(data[data["sample"] == 3]["y"]) == {place["method.omega"]}
    said = texts(figure)
    assert f"{place['method.alpha']:g}, {place['method.omega']:g}" in said, "the winner's values"
    assert "stopped by the scheduler" in said
    assert "500 held-out images" in said
    plane, lines = figure.axes[:2]
    assert plane.get_yscale() == "log"
    marked = [line for line in lines.lines if line.get_marker() == "X"]
    assert sorted(line.get_xdata()[0] for line in marked) == [5, 10], (
        "where the two stopped ones were stopped"
    )


def test_samples_without_a_decision_are_named_and_nobody_wins():
    spec = search_spec()
    figure, data = render(with_samples(spec, tried(spec)[:3]))
    assert "1 of 4 samples are not decided yet: no winner" in texts(figure)
    assert not data["winner"].any()


def test_nothing_run_yet_is_still_a_figure():
    figure, data = render(search_spec())
    assert len(data) == 0
    assert "4 of 4 samples are not decided yet" in texts(figure)


def test_the_plane_may_be_turned_and_only_numbers_span_it():
    spec = search_spec()
    spec = with_samples(spec, tried(spec))
    turned = render(spec, x="method.omega", y="method.alpha")[1]
    assert set(turned[turned["sample"] == 1]["x"]) == {
        spec.search.drawn()[0].point["method.omega"]
    }
    with pytest.raises(
        figures.FigureError,
        match=r"x: train\.epochs is no numeric key.*valid: method\.alpha, method\.omega",
    ):
        render(spec, x="train.epochs")
    with pytest.raises(figures.FigureError, match="has no search to draw"):
        figures.render("search", rows_spec(), pd.DataFrame(), lambda metric: pd.DataFrame(), {})


@pytest.mark.parametrize("kind", ["pdf", "png", "svg"])
def test_the_same_input_gives_the_same_bytes(kind):
    spec = search_spec()
    spec = with_samples(spec, tried(spec))
    assert figures.to_bytes(render(spec)[0], kind, "s") == figures.to_bytes(
        render(spec)[0], kind, "s"
    )


@pytest.fixture
def log_samples(tmp_path):
    """Write records of samples as the mirror does into a real store; returns its address."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric as Point
    from mlflow.entities import Param

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def log(spec: Spec, some: tuple[SampleResult, ...]) -> str:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
        for one in some:
            known = {"sample": one.sample.number}
            if one.state == "stopped":
                known["stopped"] = one.epoch
            tags = {
                "trial_id": one.sample.trial.id,
                "seed": "0",
                f"search.{spec.name}": json.dumps(known),
            }
            run = client.create_run(experiment, tags=tags).info.run_id
            params = [Param(key, repr(value)) for key, value in one.sample.point.items()]
            points = [
                Point("test_top1_error", one.value * one.epoch / e, e, e)
                for e in range(5, one.epoch + 1, 5)
            ]
            client.log_batch(
                run, params=params, metrics=[*points, Point("test_loss", one.loss, 0, one.epoch)]
            )
            client.set_terminated(
                run, {"finished": "FINISHED", "failed": "FAILED"}.get(one.state, "KILLED")
            )
        return uri

    return log


def test_records_give_back_what_the_search_found(log_samples):
    spec = search_spec()
    other = replace(spec, search=replace(spec.search, base={**BASE, "train": {"epochs": 2}}))
    log_samples(other, tried(other))  # an earlier state of the same spec, under the same rows
    uri = log_samples(spec, tried(spec)[:3])
    undecided = with_search_results(spec, uri)
    assert [one.sample.number for one in undecided.search.tried] == [1, 2, 3]
    assert undecided.cells == spec.cells, "no winner before all samples are decided"

    log_samples(spec, tried(spec)[3:])
    found = with_search_results(spec, uri)
    expected = [(one.sample, one.state, one.epoch, one.value) for one in tried(spec)]
    assert [
        (one.sample, one.state, one.epoch, one.value) for one in found.search.tried
    ] == expected
    assert len(sample_runs(found)) == 4
    assert found.cells[-1].labels == ("winner",)
    assert found.cells[-1].trials == spec.search.trials(spec.search.drawn()[2].point, spec.seeds)
    plain = rows_spec()
    assert with_search_results(plain, uri) == plain, "a spec without a search stays as it is"


def test_an_interrupted_sample_without_the_schedulers_word_is_undecided(log_samples):
    spec = search_spec()
    some = (*tried(spec)[:3], replace(tried(spec)[3], state="undecided"))
    found = with_search_results(spec, log_samples(spec, some))
    assert [one.state for one in found.search.tried] == [
        "finished",
        "stopped",
        "finished",
        "undecided",
    ]
    assert found.cells == spec.cells


def test_the_page_counts_its_samples():
    spec = search_spec()
    records = pd.DataFrame(columns=COLUMNS)
    known = with_samples(spec, tried(spec)[:3])
    stopped = sum(one.state == "stopped" for one in known.search.tried)
    assert stopped
    said = summary(collect(known, records))[1]
    assert said == f"Of 4 samples of its search 3 are decided, {stopped} of them stopped early."
    assert View(collect(known, records)).samples == (3, 4)
    assert "0 are decided." in summary(collect(spec, records))[1]
