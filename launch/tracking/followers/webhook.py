"""A message to an address whenever a trial begins, goes on, stops, finishes or fails: a POST of
JSON, with a sentence as `text`, which chats that take incoming webhooks show.

Epochs are no messages; the last one's numbers come with the end. A message that may have arrived
before its sender died is sent again with the same `Idempotency-Key`, by which a receiver knows it.
"""

import json
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from launch.errors import UsageError
from launch.tracking.followers import Event, Follower, Mark
from launch.tracking.record import Record

SECONDS = 10.0
"""How long an answer is waited for."""
TOLD = ("started", "resumed", "interrupted", "finished", "failed")


class Webhook(Follower):
    """Posts one message an event."""

    name = "webhook"
    place = "https://…"
    tells_the_past = False

    def check(self) -> None:
        address = urlsplit(self.where or "")
        if address.scheme not in ("http", "https") or not address.hostname:
            raise UsageError("--follow webhook needs an address: webhook=https://…")

    def send(self, found: Record, events: Sequence[Event], mark: Mark) -> Iterator[Mark]:
        before = int(mark.get("sent", 0))
        for number, event in enumerate(events, before + 1):
            if event["event"] in TOLD:
                so_far = found.events[:number]
                self._post(
                    message(found, event, so_far), f"{found.trial_id}-{found.start}-{number}"
                )
                yield {"sent": number}
        yield {}

    def _post(self, body: dict[str, Any], key: str) -> None:
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": key,
            "User-Agent": "recursivemix",
        }
        data = json.dumps(body, ensure_ascii=False).encode()
        request = urllib.request.Request(str(self.where), data, headers)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                answer.read(1)
        except OSError as error:
            # A chat's address is its password: only the host is ever named.
            raise OSError(f"{urlsplit(str(self.where)).hostname}: {error}") from None


def message(found: Record, event: Event, so_far: Sequence[Event]) -> dict[str, Any]:
    """What is said of an event, and the numbers of the last epoch before it."""
    epochs = [each for each in so_far if each["event"] in ("epoch", "point")]
    numbers = {key: value for key, value in event.items() if key not in ("event", "traceback")}
    last = {key: value for key, value in (epochs[-1] if epochs else {}).items() if key != "event"}
    return {
        "text": f"{found.name}: {_sentence(event)}",
        "event": event["event"],
        "trial": found.trial_id,
        "label": found.name,
        "uses": found.uses,
        **numbers,
        "last_epoch": last,
    }


def _sentence(event: Event) -> str:
    if event["event"] == "failed":
        return f"failed: {event.get('error', 'unknown')}"
    if event["event"] == "finished":
        best = [(k, v) for k, v in event.items() if k.startswith(("best_", "measured_"))]
        said = ", ".join(f"{k} {v:.6g}" for k, v in best[:2] if isinstance(v, (int, float)))
        return f"finished: {said}" if said else "finished"
    if event["event"] == "started":
        return f"started on {event['device']}" if "device" in event else "started"
    return f"{event['event']} in epoch {event['epoch']}" if "epoch" in event else event["event"]
