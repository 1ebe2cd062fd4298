"""The address of a tracking store: whether a store is there, when it has changed, how it is named
to people.
"""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from analysis.paths import without_secrets


def exists(uri: str) -> bool:
    """Whether a store is there to be read; MLflow would create a missing local one."""
    parts = urlsplit(uri)
    if parts.scheme.startswith("sqlite"):
        return _file(uri).is_file() and _file(uri).stat().st_size > 0
    if parts.scheme in ("", "file"):
        return Path(unquote(parts.path)).is_dir()
    return True


def stamp(uri: str) -> list[int] | None:
    """What changes with every write to a database file; None where that cannot be told from
    outside.
    """
    if not urlsplit(uri).scheme.startswith("sqlite"):
        return None
    looks = []
    for suffix in ("", "-wal", "-journal"):
        try:
            status = _file(uri).with_name(_file(uri).name + suffix).stat()
        except FileNotFoundError:
            continue
        looks += [status.st_ino, status.st_size, status.st_mtime_ns]
    return looks


def link(uri: str, experiment_id: str, run_id: str) -> str | None:
    """The page of a run on its tracking server; None where the store has none."""
    if not uri.startswith(("http://", "https://")):
        return None
    # Credentials in the address are for this program, not for a page that is passed on.
    address = urlsplit(without_secrets(uri))._replace(query="", fragment="").geturl().rstrip("/")
    return f"{address}/#/experiments/{experiment_id}/runs/{run_id}"


def explain(uri: str, error: Exception) -> str:
    """What is wrong with the store, in words that hold no password."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"{without_secrets(uri)}: the records cannot be read: {without_secrets(uri, first_line)}\n"
        "valid: the address of a running MLflow server (http://host:port) or "
        "sqlite:///path/to/mlflow.db"
    )


def _file(uri: str) -> Path:
    return Path(unquote(uri.split("///", 1)[-1].split("?")[0]))
