"""What people see while the samples of a search train."""

from pathlib import Path

from launch.progress import ProgressWatcher
from launch.runs.job import Outcome
from launch.search.state import SearchState


class SampleWatcher(ProgressWatcher):
    """Progress of samples, which come to be known as the search goes; `begun` are their run
    directories.

    One that the scheduler stopped counts as done.
    """

    def __init__(self, state: SearchState) -> None:
        known = {state.run_dir(number): state.label(number) for number in state.samples}
        super().__init__(known, dict.fromkeys(known, state.search.epochs))
        self.state = state
        self.begun = {state.run_dir(number): None for number in sorted(state.begun)}
        self.bars.update(self.total, total=state.search.samples - len(state.decided))

    def on_start(self, run_dir: Path) -> None:
        numbers = {self.state.run_dir(number): number for number in self.state.begun}
        self.labels[run_dir] = self.state.label(numbers[run_dir])
        self.epochs[run_dir] = self.state.search.epochs
        super().on_start(run_dir)

    def on_end(self, run_dir: Path, outcome: Outcome) -> None:
        stopped = any(self.state.run_dir(number) == run_dir for number in self.state.decided)
        if outcome.status == "interrupted" and stopped:
            self.print_line(f"{self.labels[run_dir]}: {outcome.error}")
            outcome = outcome._replace(status="finished")
        super().on_end(run_dir, outcome)
