"""The progress of notebooks that run side by side: a tqdm bar on a terminal; lines for start and end also in a log."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Shows how many jobs are done and how much time is left.

    `expected` holds the seconds of each job that is to run. Jobs with an equal value in `alike` take about equally
    long: when one of them ends, its time replaces the expected seconds of the others.
    """

    def __init__(self, expected: dict[int, float], side_by_side: int = 1, alike: dict | None = None, stream=None):
        self.left = dict(expected)  # expected seconds of the jobs that have not ended
        self.alike = alike or {}
        self.side_by_side = max(1, side_by_side)
        self.stream = stream or sys.stderr
        self.names, self.begun = {}, {}
        self.bar = tqdm(
            total=len(expected),
            file=self.stream,
            disable=True if not expected else None,  # None: no bar where the stream is no terminal
            leave=False,
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar:20}| {desc}",
        )
        if expected:
            self.write(f"{len(expected)} to run, {self.side_by_side} side by side, about {self.time_left()}")

    def started(self, job: int, name: str) -> None:
        self.begun[job], self.names[job] = time.monotonic(), name
        if self.bar.disable:
            self.write(f"started  {name}")

    def finished(self, job: int, outcome) -> None:
        self.left.pop(job, None)
        if outcome.ok and job in self.alike:
            others = [other for other in self.left if self.alike.get(other) == self.alike[job]]
            self.left.update(dict.fromkeys(others, outcome.seconds))
        done = self.bar.total - len(self.left)
        took = tqdm.format_interval(outcome.seconds)
        word = "finished" if outcome.ok else "FAILED  "
        self.write(f"{word} {self.names[job]} in {took}  [{done} of {self.bar.total}, about {self.time_left()} left]")
        if not outcome.ok:
            kept = f" -> {outcome.job.failed}" if outcome.job.failed.exists() else ""
            self.write(f"  {outcome.message}{kept}")

    def seconds_left(self) -> float:
        """The expected seconds of all jobs shared among the processes, but at least those of the longest job.

        A job that runs longer than expected counts as nearly done: 5 % of its expected seconds are left.
        """
        now = time.monotonic()
        each = [max(s - (now - self.begun.get(job, now)), 0.05 * s) for job, s in self.left.items()]
        return max([sum(each) / self.side_by_side, *each], default=0.0)

    def time_left(self) -> str:
        return tqdm.format_interval(self.seconds_left())

    def tick(self, cells: dict[int, tuple[int, int]]) -> None:
        """Redraws the bar. `cells` holds (running cell, number of cells) of each running job."""
        if self.bar.disable:
            return
        finished = self.bar.total - len(self.left)
        self.bar.n = finished + sum((number - 1) / total for number, total in cells.values() if number)
        running = ", ".join(f"{self.names[job]} cell {number}/{total}" for job, (number, total) in cells.items())
        self.bar.set_description_str(
            f"{finished}/{self.bar.total} done, about {self.time_left()} left, running: {running}"
        )

    def write(self, text: str) -> None:
        """Prints one line above the bar."""
        self.bar.write(text, file=self.stream)
        self.stream.flush()

    def close(self) -> None:
        self.bar.close()
