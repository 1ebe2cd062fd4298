"""One real MLflow store for the whole session."""

import pytest

from analysis.records.load import EXPERIMENT
from tests.support.analysis.samples import RESULTS, fake_curve, fake_records, rows_spec


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real sqlite store with the finished trials of `rows_spec`; its migrations cost seconds, so
    there is one.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric as Point
    from mlflow.entities import Param, RunTag

    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment(EXPERIMENT)
    spec = rows_spec()
    for row in fake_records(spec).to_dict("records"):
        run = client.create_run(experiment, run_name=f"rows · seed {row['seed']}").info.run_id
        tags = [
            RunTag(key, str(row[key]))
            for key in ("trial_id", "seed", "run_dir", "host", "device", "git_commit")
        ]
        points = [
            Point("test_top1_error", value, 0, epoch)
            for epoch, value in fake_curve(row["trial_id"], 5)
        ]
        points += [Point(key, row[key], 0, 0) for key in RESULTS]
        client.log_batch(
            run,
            metrics=[*points, Point("train_seconds", 12.5, 0, 0)],
            params=[Param("seed", str(row["seed"]))],
            tags=tags,
        )
        client.set_terminated(run)
    return uri
