"""What was read of a tracking store, kept as files, so that the next report reads only what has
changed.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rm.files import write_atomically

FORMAT = 2
"""Raised when the shape of what is kept changes; older files are then read anew."""

Rows = dict[str, dict[str, Any]]
"""MLflow's run id -> one row of `records.load_records`, and a few columns more."""


@dataclass(frozen=True)
class CachedStore:
    """All runs of a store as they were last seen.

    stamp is that of the database file (None for a server); complete is when all was read, in
    seconds since 1970, and seconds how long that took.
    """

    stamp: list[int] | None
    complete: float
    seconds: float
    rows: Rows


class Cache:
    """A folder that may be deleted at any time. Nothing in it is trusted that cannot be parsed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, uri: str) -> CachedStore | None:
        """The runs of the store at this address, None where nothing is kept of it."""
        data = self._load(uri, "records")
        try:
            return CachedStore(**data) if data else None
        except TypeError:
            return None

    def write(self, uri: str, kept: CachedStore) -> None:
        self._store(uri, "records", vars(kept))

    def curves(self, uri: str, metric: str) -> dict[str, list[tuple[int, float]]]:
        """The kept learning curves of finished runs, by run id, as (epoch, value)."""
        return self._load(uri, f"curves-{metric}") or {}

    def keep_curves(
        self, uri: str, metric: str, curves: dict[str, list[tuple[int, float]]]
    ) -> None:
        self._store(uri, f"curves-{metric}", curves)

    def _path(self, uri: str, what: str) -> Path:
        return (
            self.folder
            / f"{what}-{hashlib.sha256(f'{FORMAT} {uri}'.encode()).hexdigest()[:12]}.json"
        )

    def _load(self, uri: str, what: str) -> dict[str, Any] | None:
        try:
            data = json.loads(self._path(uri, what).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return data if isinstance(data, dict) else None

    def _store(self, uri: str, what: str, data: dict[str, Any]) -> None:
        path = self._path(uri, what)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(data, separators=(",", ":")))
