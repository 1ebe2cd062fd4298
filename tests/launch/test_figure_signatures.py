"""What a spec can say of a figure, read without importing it, against the functions themselves."""

import inspect

import pytest

from analysis import figures as drawn
from launch.spec import figures, load
from tests.support.trials import ROOT


@pytest.mark.parametrize("name", figures.names())
def test_the_source_says_what_the_function_takes(name):
    parameters = inspect.signature(drawn.load(name).draw).parameters
    keywords = {key: one for key, one in parameters.items() if one.kind is one.KEYWORD_ONLY}
    found = figures.signature(name)
    assert {*found.sources, *found.options} == set(keywords)
    assert found.sources == tuple(key for key in keywords if key in figures.SOURCES)
    for key, option in found.options.items():
        assert option.required == (keywords[key].default is inspect.Parameter.empty)
        assert option.kinds != ("Any",), "an option without a type cannot be checked"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").rglob("*.yaml")), ids=lambda p: p.stem
)
def test_the_figures_of_every_spec_have_valid_options(path):
    for figure in load.load_spec(path).figures:
        assert figures.check(figure.draw, figure.options) == []


def test_what_is_wrong_is_said_with_its_option():
    wrong = figures.check("sweep", {"x": 3, "basis": "Baseline", "where": None, "panels": [1]})
    assert wrong == [
        ("basis", "sweep: unknown option 'basis'; valid: x, where, baseline, panels"),
        ("x", "sweep: x must be text, found 3"),
        ("panels", "sweep: panels must be text or null, found [1]"),
    ]
    assert figures.check("probe_curve", {"x": "a", "y": "b", "at": True, "log": 1}) == [
        ("at", "probe_curve: at must be a number or null, found True"),
        ("log", "probe_curve: log must be true or false, found 1"),
    ]
    assert figures.check("samples", {"positions": [0]}) == []
    (absent,) = figures.check("sweep", {})
    assert absent[0] is None
    assert absent[1].startswith("sweep: option 'x' is required; valid: x")
