"""The registry: what it reads from the source is what the imported objects have, and planner and
trainer refuse the same.
"""

import copy
import inspect

import pytest
import yaml

from launch.spec.load import SpecError, load_spec
from rm import registry
from rm.registry.source import read_choices
from rm.trial import Train, TrialError, parse_trial
from tests.support.trials import ROOT, TINY

CHOICES = [(section, name) for section in registry.SECTIONS for name in registry.entries(section)]


def keyword_only(found):
    """name -> parameter; of a class that hands the rest on, its bases' too."""
    parameters = {}
    for one in found.__mro__ if inspect.isclass(found) else [found]:
        if inspect.isclass(one) and "__init__" not in vars(one):
            continue
        signature = inspect.signature(one).parameters.values()
        own = {p.name: p for p in signature if p.kind is inspect.Parameter.KEYWORD_ONLY}
        parameters = {**own, **parameters}
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature):
            break
    return parameters


@pytest.mark.parametrize(("section", "name"), CHOICES)
def test_options_are_the_keyword_only_parameters(section, name):
    if section == "task" and not (ROOT / "rm" / "tasks").exists():
        pytest.skip("rm/tasks is not there yet")
    own = keyword_only(registry.load(section, name))
    if section == "dataset":
        from rm.datasets import load

        own |= keyword_only(load)
    options = registry.entry(section, name).options
    assert set(options) == set(own)
    for option in options.values():
        empty = own[option.name].default is inspect.Parameter.empty
        assert option.required == empty
        assert empty or option.default == own[option.name].default
        if not empty:
            assert option.check(option.default) == option.default, "a default must be valid"


def test_the_loops_options_are_the_fields_of_train():
    given = {"epochs": 1, "batch_size": 1}
    values, wrong = registry.check("train", given)
    assert wrong == []
    assert Train(**values) == Train(**given)
    assert "keep_best" not in values, "what changes no number stands there only where it is set"
    assert registry.check("train", {**given, "keep_best": True})[0]["keep_best"] is True


def test_a_class_that_hands_options_on_has_those_of_its_bases(tmp_path):
    """Its own come first and win; a base that takes no more ends it."""
    (tmp_path / "mine.py").write_text(
        "from rm.methods._mask_mixing import MaskMixing\n"
        "class _Base:\n    def __init__(self, x, *, a: int = 1, b: int = 2): ...\n"
        "class _Other(_Base):\n    def __init__(self, *, b: int = 3, **options): ...\n"
        "class Mine(_Other):\n    def __init__(self, *, c: int = 4, **others): ...\n"
    )
    options = read_choices(tmp_path, "method", classes=True)["mine"].options
    assert {name: option.default for name, option in options.items()} == {"c": 4, "b": 3, "a": 1}
    assert list(options) == ["c", "b", "a"]
    text = (tmp_path / "mine.py").read_text()
    (tmp_path / "imported.py").write_text(text.replace("Mine(_Other)", "Mine(MaskMixing)"))
    imported = read_choices(tmp_path, "method", classes=True)["imported"].options
    assert imported["ema_hold"].default == 0.1
    assert list(imported)[:2] == ["c", "alpha"]
    (tmp_path / "gone.py").write_text(text.replace("Mine(_Other)", "Mine(Gone)"))
    with pytest.raises(registry.RegistryError, match="the class Gone, whose options it takes"):
        read_choices(tmp_path, "method", classes=True)


def test_a_private_file_or_function_is_never_a_choice(tmp_path):
    (tmp_path / "_helper.py").write_text("class Helper: ...\n")
    (tmp_path / "mine.py").write_text("class Mine:\n    def __init__(self, *, a: int = 1): ...\n")
    assert set(read_choices(tmp_path, "method", classes=True)) == {"mine"}
    (tmp_path / "more.py").write_text("def _part(): ...\ndef more(*, a: int = 1): ...\n")
    assert set(read_choices(tmp_path / "more", "schedule", classes=False)) == {"more"}
    assert not {name for _, name in CHOICES if name.startswith("_")}
    with pytest.raises(registry.RegistryError, match="unknown method '_style'"):
        registry.load("method", "_style")


def test_a_file_that_cannot_be_offered_is_named(tmp_path):
    for number, (text, message) in enumerate(
        (
            ("def mine(*, a=1): ...", "option 'a' has no annotation"),
            ("def mine(*, a: Path): ...", "mine.py:1: option 'a': name 'Path' is not defined;"),
            ("def mine(:", "cannot be read"),
            ("def mine(): ...\ndef mine(): ...", "'mine' is defined in .*mine.py as well"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "mine.py").write_text(text)
        with pytest.raises(registry.RegistryError, match=message):
            read_choices(folder, "backbone", classes=False)


BAD = [
    ({"method": {"name": "cutmx"}}, "unknown method 'cutmx'; did you mean 'cutmix'?"),
    (
        {"method": {"name": "mixup", "alhpa": 1.0}},
        "method 'mixup' has no option 'alhpa'; did you mean 'alpha'?",
    ),
    ({"method": {"name": "mixup", "alpha": -1}}, "method.alpha: must satisfy alpha > 0, found -1"),
    (
        {"method": {"name": "resizemix", "low": 0.9, "high": 0.1}},
        "method 'resizemix' must satisfy low <= high: the scale is drawn between the two",
    ),
    ({"optimizer": {"name": "sgd"}}, "optimizer 'sgd' needs 'lr'"),
    (
        {"train": {"epochs": True, "batch_size": 16}},
        "train.epochs: must be a whole number, found True",
    ),
    (
        {"train": {"epochs": 1, "batch_size": 16, "precision": "fp8"}},
        "train.precision: must be 'fp32', 'bf16' or 'fp16', found 'fp8'",
    ),
    (
        {"schedule": {"name": "step", "milestones": ["a"]}},
        "schedule.milestones: must be a whole number, found ['a']",
    ),
    (
        {"method": {"name": "stochastic_depth"}, "backbone": {"name": "densenet121"}},
        "method 'stochastic_depth' needs a backbone with residual branches; densenet121 has none",
    ),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_planner_and_trainer_refuse_the_same(tmp_path, change, message):
    values = copy.deepcopy(TINY) | change
    with pytest.raises(TrialError) as trained:
        parse_trial(values)
    assert message in str(trained.value)
    seed = values.pop("seed")
    path = tmp_path / "spec.yaml"
    rows = [{"row": "all"}]
    path.write_text(yaml.safe_dump({"title": "t", "seeds": [seed], "trial": values, "rows": rows}))
    with pytest.raises(SpecError) as planned:
        load_spec(path)
    assert message in str(planned.value)


def test_the_trainer_reads_what_the_planner_writes():
    for path in sorted((ROOT / "experiments").rglob("*.yaml")):
        for trial in load_spec(path).trials[:3]:
            read = parse_trial(trial.values)
            choices = {k: v for k, v in trial.values.items() if k in registry.SECTIONS}
            assert read.choices == choices
            unwritten = {
                "cuda_graph": False,
                "deterministic": True,
                "sheets": False,
                "winograd": False,
                "keep_best": False,
            }
            assert vars(read.train) == {**unwritten, **trial.values["train"]}
