"""libyaml and PyYAML's own parser read one thing; what neither can read is told by the latter."""

import pytest
import yaml

from launch.spec.grammar import yaml_source
from launch.spec.grammar.yaml_source import SpecError, read
from tests.support.trials import ROOT

SPECS = sorted((ROOT / "experiments").rglob("*.yaml"))


def read_by(loader, path, monkeypatch):
    monkeypatch.setattr(yaml_source, "_FastLoader", loader)
    return read(path)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_both_parsers_find_the_same_values_at_the_same_places(path, monkeypatch):
    fast = read_by(yaml_source._FastLoader, path, monkeypatch)
    slow = read_by(yaml_source._Loader, path, monkeypatch)
    assert fast.data == slow.data
    assert (fast.keys, fast.values) == (slow.keys, slow.values)


def test_libyaml_is_there():
    assert issubclass(yaml_source._FastLoader, yaml.CSafeLoader)


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("a: [1, 2\nb: 3\n", "2:2", "expected ',' or ']', but got ':'"),
        ("a: b: c\n", "1:5", "mapping values are not allowed here"),
        ("a: *b\n", "1:4", "found undefined alias 'b'"),
        ("a: \x07\n", "1:4", "the character '\\x07'"),
    ],
)
def test_what_cannot_be_read_is_told_in_pyyamls_words(tmp_path, text, place, problem):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        read(path)
    assert f"x.yaml:{place}: not valid YAML: {problem}" in str(caught.value)


@pytest.mark.parametrize("depth", [101, 300, 900, 5_000, 100_000, 1_000_000])
@pytest.mark.parametrize("level", ["[", "{a: ", "- ", "? ", "- ? "])
def test_deep_nesting_is_a_mistake_like_others(tmp_path, depth, level):
    """And no end of the process, as libyaml would make of it."""
    path = tmp_path / "x.yaml"
    end = {"[": "]", "{a: ": "}"}.get(level, "x")
    path.write_text(level * depth + end * (depth if end in "]}" else 1))
    with pytest.raises(SpecError, match=r"nested too deeply|a key must be plain text"):
        read(path)


def test_indentation_of_a_thousand_levels(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("\n".join(" " * level + "a:" for level in range(1000)))
    with pytest.raises(SpecError, match="nested too deeply"):
        read(path)


def test_ninety_levels_are_read(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("[" * 90 + "]" * 90)
    assert read(path).data == eval("[" * 90 + "]" * 90)
