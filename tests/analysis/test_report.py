"""The command, end to end: real specs, a real store, files on disk, exit codes."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis import report
from launch.spec.load import load_spec
from tests.support.trials import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "analysis" / "report.py"


@pytest.fixture
def quickstart_store(store):
    """The session's store with one finished trial of the real quickstart added."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    client = MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("recursivemix").experiment_id
    trial = load_spec(ROOT / "experiments" / "quickstart.yaml").trials[0]
    run = client.create_run(
        experiment, tags={"trial_id": trial.id, "seed": "0", "git_commit": "abc+changes"}
    ).info.run_id
    finals = [
        Metric(f"{kind}_top1_error", 6.25, 0, 3) for kind in ("best", "last", "median_last_10")
    ]
    epochs = [Metric("test_top1_error", 10.0 - epoch, 0, epoch) for epoch in (1, 2, 3)]
    client.log_batch(run, metrics=[*finals, *epochs])
    client.set_terminated(run)
    return store


@pytest.mark.cluster
def test_the_command_writes_everything_from_any_folder(tmp_path, quickstart_store):
    command = [
        sys.executable,
        str(SCRIPT),
        "experiments/quickstart.yaml",
        "--tracking-uri",
        quickstart_store,
    ]
    done = subprocess.run(
        [*command, "--output", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "6.25" in done.stdout
    assert "1 of 3 seeds, without 1 and 2" in done.stdout
    stems = ["html", "md", "tex", "csv"]
    assert [(tmp_path / "out" / f"quickstart.{end}").stat().st_size > 0 for end in stems] == [
        True
    ] * 4
    for line in done.stdout.splitlines():
        assert (
            not line.startswith("wrote ") or (tmp_path / line.removeprefix("wrote ")).is_file()
        ), line
    assert (tmp_path / "out" / "quickstart" / "learning_curves.svg").exists()
    html = (tmp_path / "out" / "quickstart.html").read_text()
    HTMLParser().feed(html)
    assert "with local changes" in html


def test_without_a_store_all_is_missing_and_nothing_is_made_but_the_report(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert (
        report.main(["experiments/table3.yaml", "--profile", "smoke", "--format", "html,csv"]) == 0
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report"]
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "table3-smoke-seeds.csv",
        "table3-smoke.csv",
        "table3-smoke.html",
    ]
    out = capsys.readouterr().out
    assert "Reduced profile “smoke”" in out
    assert "python launch/run.py" in out


def test_all_mistakes_in_all_specs_are_printed_and_nothing_is_written(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path / "results"))
    (tmp_path / "one.yaml").write_text("title: one\n")
    (tmp_path / "two.yaml").write_text("titel: two\n")
    assert (
        report.main(
            [str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml"), str(tmp_path / "none.yaml")]
        )
        == 2
    )
    errors = capsys.readouterr().err
    assert all(name in errors for name in ("one.yaml:1", "two.yaml:1", "none.yaml"))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            "basis: Baseline",
            "quickstart.yaml:28:85: sweep: unknown option 'basis'; valid: x, where, baseline, "
            "panels",
        ),
        (
            "baseline: Base",
            "figure 'alpha': baseline: no cells are labelled 'Base'; valid: one of",
        ),
    ],
    ids=["found in the spec", "found with the table"],
)
def test_a_figure_with_a_wrong_option_is_bad_input(
    tmp_path, monkeypatch, capsys, written, message
):
    monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path / "results"))
    text = (ROOT / "experiments" / "quickstart.yaml").read_text()
    (tmp_path / "quickstart.yaml").write_text(text.replace("baseline: Baseline", written))
    store = f"sqlite:///{tmp_path}/no.db"
    assert report.main([str(tmp_path / "quickstart.yaml"), "--tracking-uri", store]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_two_specs_of_one_name_would_overwrite_each_other(tmp_path, capsys):
    (tmp_path / "quickstart.yaml").write_text(
        (ROOT / "experiments" / "quickstart.yaml").read_text()
    )
    given = [str(tmp_path / "quickstart.yaml"), str(ROOT / "experiments" / "quickstart.yaml")]
    assert report.main(given) == 2
    assert "overwritten" in capsys.readouterr().err


def test_an_unknown_format_is_bad_input(capsys):
    with pytest.raises(SystemExit) as caught:
        report.main(["experiments/table3.yaml", "--format", "docx"])
    assert caught.value.code == 2
    assert "valid: html, md, latex, csv" in capsys.readouterr().err


def test_tables_stand_in_their_natural_order():
    args = report._arguments(["--all"])
    names = [Path(one).stem for one in args.specs]
    assert names.index("table2") < names.index("table10a") < names.index("table11")
    assert names.index("table11") < names.index("table1_supervised"), "AMix's come after RM's"


def test_figures_are_as_wide_as_asked_and_of_the_kinds_asked_for(tmp_path, monkeypatch, capsys):
    """Of committed records, so that there are curves; in points, of which an inch has 72."""
    monkeypatch.setenv("RM_RESULTS_DIR", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    look = ["--figure-width", "5.5", "--figure-formats", "pdf"]
    assert report.main(["experiments/cifar10_small.yaml", "--format", "csv", *look]) == 0
    files = sorted(path.name for path in (tmp_path / "report" / "cifar10_small").iterdir())
    assert files == ["learning_curves.csv", "learning_curves.pdf"]
    pdf = (tmp_path / "report" / "cifar10_small" / "learning_curves.pdf").read_bytes()
    assert b"/MediaBox [ 0 0 396 " in pdf
    with pytest.raises(SystemExit):
        report.main(["experiments/cifar10_small.yaml", "--figure-formats", "jpg"])
    assert "unknown format 'jpg'; valid: pdf, png, svg" in capsys.readouterr().err
