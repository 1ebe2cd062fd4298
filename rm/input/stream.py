"""Images that stay on disk, read and augmented by long-lived processes while the device computes.

What an epoch shows is fixed before it begins: at each position an image and the seed of all that
is drawn for it. So neither the number of processes nor the step at which a resumed run begins
changes a bit, and nothing before that step is read.
"""

import atexit
import functools
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from rm.datasets import AnnotatedSplit, DataError, Dataset, DiskSplit, InMemorySplit
from rm.input.device_images import DeviceImages, Images, Normalise, draw_order

EVALUATION_BATCH = 128
"""At most: more would only make the first batch come later."""
READ_SECONDS = 600.0
"""A batch that has not come by then never will: a disk hangs."""
ORPHAN_SECONDS = 1.0
"""How often a reading process looks whether its trainer is still there."""

StoredSplit = DiskSplit | AnnotatedSplit

Request = tuple[int, NDArray[np.int64], NDArray[np.int64]]
"""A batch to be read: number of the split, images, seeds."""


def open_images(data: Dataset, device: torch.device, processes: int) -> tuple[Images, Images]:
    """Training and test split of a data set: on the device, or streamed to it from disk."""
    splits, normalise = (data.train, data.test), Normalise(data.mean, data.std, device)
    pool = ReadingPool(
        [split for split in splits if isinstance(split, DiskSplit)],
        processes,
        device.type == "cuda",
    )
    images: list[Images] = []
    for split, padding in zip(splits, (data.padding, 0), strict=True):
        if isinstance(split, InMemorySplit):
            images.append(
                DeviceImages(
                    split, padding, data.mean, data.std, device, data.flip, border=data.border
                )
            )
        else:
            if isinstance(split, AnnotatedSplit):
                raise DataError("pictures with annotations are for detection and segmentation")
            images.append(StreamedImages(split, pool, normalise, device))
    return images[0], images[1]


def workers(processes: int) -> int:
    """How many processes read for each that trains: $RM_LOADER_WORKERS, else its share of the
    cores, 8 at most; 0: the one that trains reads.

    DataError for a value that is no number from 0.
    """
    given = os.environ.get("RM_LOADER_WORKERS")
    if given is None:
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", processes))))
    if not given.isdecimal():
        raise DataError(f"RM_LOADER_WORKERS must be a whole number >= 0, found {given!r}")
    return int(given)


_FOR_THE_TRAINER = (signal.SIGINT, signal.SIGTERM)


class ReadingPool:
    """Processes that read batches ahead, started when the first is asked for and kept until
    `close`.
    """

    def __init__(self, splits: Sequence[StoredSplit], processes: int, pin: bool) -> None:
        self.splits, self._pin = list(splits), pin
        self._workers = workers(processes) if splits else 0
        self._plan = _Plan()
        self._loader: DataLoader[Any] | None = None
        self._reading = 0
        self._at_exit = functools.partial(_close_at_exit, weakref.ref(self), os.getpid())

    def read(self, requests: Iterable[Request]) -> Iterator[Any]:
        """For each request, in their order, (B, H, W, C) as the reader gives them, or the list of
        samples of an annotated split. One reading at a time: a new one ends the one before.
        """
        self._reading += 1
        mine, self._plan.requests = self._reading, requests
        if self._loader is None:
            self._loader = self._start()
        for batch in self._batches(self._loader):
            if isinstance(batch, DataError):
                raise batch
            yield batch
            if mine != self._reading:
                raise RuntimeError(
                    "another reading of these images began, or they were closed, before this one "
                    "ended"
                )

    def _batches(self, loader: DataLoader[Any]) -> Iterator[Any]:
        try:
            yield from self._iterator(loader)
        except (
            RuntimeError
        ) as error:  # the DataLoader's own: a reader died, or READ_SECONDS passed
            if "DataLoader" not in str(error):
                raise
            raise DataError(f"the pictures are not read any more: {error}") from None

    def _iterator(self, loader: DataLoader[Any]) -> Iterator[Any]:
        """The first one starts the processes: with their signals held back, so that none is ended
        by a SIGTERM to all processes of a job before it has learned to ignore it.
        """
        if loader._iterator is not None or not self._workers:
            return iter(loader)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_TRAINER)
        try:
            return iter(loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _start(self) -> DataLoader[Any]:
        atexit.register(self._at_exit)
        return DataLoader(
            _Library(self.splits),
            batch_sampler=self._plan,
            collate_fn=_as_it_is,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            pin_memory=self._pin,
            timeout=READ_SECONDS if self._workers else 0,
            worker_init_fn=functools.partial(_live_with_the_trainer, os.getpid()),
            generator=torch.Generator(),  # else each epoch would take a number from the training's
        )

    def close(self) -> None:
        """End the processes; the next reading would start new ones."""
        atexit.unregister(self._at_exit)
        self._reading += 1
        # The loader would end with its last reference, which an error's traceback may hold.
        iterator, self._loader = getattr(self._loader, "_iterator", None), None
        if iterator is not None:
            iterator._shutdown_workers()
            for process in iterator._workers:
                if process.is_alive():  # it waits for a disk, and has not heard it
                    process.kill()
                    process.join(ORPHAN_SECONDS)


def _close_at_exit(pool: "weakref.ref[ReadingPool]", owner: int) -> None:
    """Of a script that ends, or fails, without `close`: multiprocessing would ask the readers to
    end by a SIGTERM, which they ignore, and then wait for them for ever.
    """
    there = pool()
    if there is not None and os.getpid() == owner:
        there.close()


class _Plan:
    """A batch sampler that can be told anew what to ask for, which a DataLoader's own cannot."""

    requests: Iterable[Request] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.requests)


class _Library(torch.utils.data.Dataset[Any]):
    """What a reading process knows."""

    def __init__(self, splits: list[StoredSplit]) -> None:
        self.splits = splits

    def __getitems__(self, request: Request) -> Any:
        """An error is returned, not raised: the trainer raises it without the traceback of another
        process around it.
        """
        split, images, seeds = request
        read = self.splits[split].reader
        try:
            samples: list[Any] = [
                read(int(i), int(seed)) for i, seed in zip(images, seeds, strict=True)
            ]
            if isinstance(self.splits[split], AnnotatedSplit):
                return samples
            return torch.stack(samples).contiguous()
        except DataError as error:
            return error
        except Exception as error:
            return DataError(f"pictures {images.tolist()}: {type(error).__name__}: {error}")


def _as_it_is(batch: Any) -> Any:
    return batch


def _live_with_the_trainer(trainer: int, worker: int) -> None:
    """Ctrl-C, and a SIGTERM to all processes of a job, are for the trainer, which writes a
    checkpoint and closes this process; however the trainer ends, this process does.
    """
    for each in _FOR_THE_TRAINER:
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FOR_THE_TRAINER)
    if os.getppid() == trainer:
        threading.Thread(target=_end_with, args=(trainer,), daemon=True).start()


def _end_with(trainer: int) -> None:
    """Not by PR_SET_PDEATHSIG, which speaks of the thread that started this process."""
    while os.getppid() == trainer:
        time.sleep(ORPHAN_SECONDS)
    os._exit(1)


@dataclass(frozen=True)
class Order:
    """At each position of an epoch: (N,) int64 image, seed, and, on the device, label and place in
    the split.
    """

    images: NDArray[np.int64]
    seeds: NDArray[np.int64]
    labels: Tensor
    places: Tensor


class StreamedImages:
    """A split on disk, read by a pool's processes, normalised on the device (an `Images`)."""

    def __init__(
        self, split: DiskSplit, pool: ReadingPool, normalise: Normalise, device: torch.device
    ) -> None:
        self.split, self.pool, self.device = split, pool, device
        self._number = next(number for number, each in enumerate(pool.splits) if each is split)
        self._normalised = normalise

    def __len__(self) -> int:
        return len(self.split)

    def sample_epoch(self, generator: np.random.Generator, repeats: int = 1) -> Order:
        return self._order(
            draw_order(len(self), repeats, generator),
            generator.integers(0, 2**63 - 1, len(self)),
        )

    def _order(self, chosen: NDArray[np.int64], seeds: NDArray[np.int64]) -> Order:
        labels, places = self.split.labels[chosen], torch.from_numpy(chosen)
        order = self.split.index[chosen], seeds, labels.to(self.device), places.to(self.device)
        return Order(*order)

    def batches(self, views: Order, slices: Sequence[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        requests = (
            (self._number, views.images[positions], views.seeds[positions]) for positions in slices
        )
        for positions, pixels in zip(slices, self.pool.read(requests), strict=True):
            yield (
                self._normalised(pixels.to(self.device, non_blocking=True)),
                views.labels[positions],
            )

    def eval_batches(self, positions: slice, largest: int) -> Iterator[tuple[Tensor, Tensor]]:
        every, size = np.arange(len(self)), min(largest, EVALUATION_BATCH)
        starts = range(positions.start, positions.stop, size)
        slices = [slice(start, min(start + size, positions.stop)) for start in starts]
        return self.batches(self._order(every, np.zeros_like(every)), slices)

    def close(self) -> None:
        self.pool.close()
