"""Where reports go and where records come from.

The same rules as `launch.paths`, restated because this package may import nothing of `launch` but
specs and trials.
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]


def results_dir() -> Path:
    """`$RM_RESULTS_DIR`, else `results/` in the repository; without one, in the current folder."""
    place = ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()
    return Path(os.environ.get("RM_RESULTS_DIR") or place / "results").expanduser().resolve()


def tracking_uri(explicit: str | None = None) -> str:
    """The address handed in, else `$MLFLOW_TRACKING_URI`, else the sqlite store in the results
    folder.
    """
    return (
        explicit
        or os.environ.get("MLFLOW_TRACKING_URI")
        or "sqlite:///" + str(results_dir() / "mlflow.db").replace("%", "%25").replace("?", "%3F")
    )


def without_secrets(uri: str, text: str | None = None) -> str:
    """An address, or a text that may quote it, without the user name and password in it."""
    secret = urlsplit(uri).netloc.rpartition("@")[0]
    shown = uri if text is None else text
    return shown.replace(f"{secret}@", "") if secret else shown


def find_spec_file(typed: str) -> Path:
    """A spec's path as people type it: from the current folder, else from the repository's
    root.
    """
    path = Path(typed).expanduser()
    rooted = ROOT / path
    return rooted if not path.exists() and rooted.exists() else path
