"""Where things are: the repository, its experiments, and the results that a launch reads and
writes.
"""

import functools
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"


@functools.cache
def is_clone() -> bool:
    """Whether this runs from a clone, and not from where pip put the packages alone."""
    return (ROOT / "pyproject.toml").exists()


def results_dir() -> Path:
    """`$RM_RESULTS_DIR`, else `results/` in the repository; without one, in the current folder."""
    place = ROOT if is_clone() else Path.cwd()
    return Path(os.environ.get("RM_RESULTS_DIR") or place / "results").expanduser().resolve()


def runs_dir() -> Path:
    """The folder of all run directories, one a trial id."""
    return results_dir() / "runs"


def ensure_home() -> None:
    """Where there is no HOME, and the machine does not know this user, the folder for temporary
    files is home: libraries keep their settings there.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.gettempdir()


def data_dir() -> Path:
    """`$RM_DATA_DIR`, else `~/.cache/recursivemix`: where data sets and the files that methods
    need are looked for.
    """
    ensure_home()
    return Path(os.environ.get("RM_DATA_DIR") or "~/.cache/recursivemix").expanduser()


def without_password(text: str) -> str:
    """A text that may quote an address, without the password in it."""
    hidden = re.sub(r"(://[^/@:\s]*):[^/@\s]*@", r"\1:***@", text)
    return re.sub(r"(?i)((?:password|passwd|pwd|token)=)[^&\s]+", r"\1***", hidden)


def tracking_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, else the sqlite store beside the runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(results_dir() / "mlflow.db")


def tracking_is_on() -> bool:
    """Whether commands that train mirror what they train; else `sync` alone does."""
    return os.environ.get("RM_TRACKING", "on") != "off"


def sqlite_uri(file: Path) -> str:
    """The address of a store in a file, as SQLAlchemy reads addresses: `?` begins its options, and
    `%3F` is a character.
    """
    return "sqlite:///" + str(file).replace("%", "%25").replace("?", "%3F")


def sqlite_file(uri: str) -> Path | None:
    """The file of such an address; None where it is another one."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))
