"""A plain progress bar with the time left, on stderr; where that is no terminal, one line per start and end."""

import sys
import time


class Progress:
    """Counts jobs that run ``side_by_side``; the time left comes from each job's expected seconds."""

    def __init__(self, side_by_side: int = 1, stream=None):
        self.side_by_side, self.stream = max(1, side_by_side), stream or sys.stderr
        self.tty = self.stream.isatty()
        self.left, self.begun, self.names, self.alike, self.total, self._drawn = {}, {}, {}, {}, 0, 0.0

    def begin(self, expected: dict[int, float], cached: int = 0, alike: dict | None = None) -> None:
        """``expected`` seconds per job; jobs with equal ``alike`` take about equally long, so one teaches the others."""
        self.left, self.total, self.alike = dict(expected), len(expected), alike or {}
        if cached:
            self._line(f"{cached} unchanged, not run again")
        if expected:
            self._line(f"{len(expected)} to run, {self.side_by_side} side by side, about {clock(self.seconds_left())}")

    def started(self, job: int, name: str) -> None:
        self.begun[job], self.names[job] = time.monotonic(), name
        if not self.tty:
            self._line(f"started  {name}")

    def finished(self, job: int, outcome) -> None:
        self.left.pop(job, None)
        self.begun.pop(job, None)
        if outcome.ok and job in self.alike:
            self.left.update(
                {other: outcome.seconds for other in self.left if self.alike.get(other) == self.alike[job]}
            )
        word = "finished" if outcome.ok else "FAILED  "
        done = self.total - len(self.left)
        self._line(
            f"{word} {self.names[job]} in {clock(outcome.seconds)}  [{done}/{self.total}, about {clock(self.seconds_left())} left]"
        )
        if not outcome.ok:
            kept = f" -> {outcome.job.failed}" if outcome.job.failed.exists() else ""
            self._line(f"  {outcome.message}{kept}")

    def seconds_left(self) -> float:
        """Jobs side by side: the sum shared out, but never less than the longest; an overdue job is taken as nearly
        done.
        """
        now = time.monotonic()
        each = [max(s - (now - self.begun.get(job, now)), 0.05 * s) for job, s in self.left.items()]
        return max([sum(each) / self.side_by_side, *each], default=0.0)

    def tick(self, cells: dict[int, tuple[int, int]]) -> None:
        """Redraws the bar, at most five times a second."""
        if not self.tty or time.monotonic() - self._drawn < 0.2:
            return
        self._drawn = time.monotonic()
        done, width = self.total - len(self.left), 20
        part = sum(number / total for number, total in cells.values() if total)
        filled = int(width * (done + min(part, 0.99 * len(cells))) / max(1, self.total))
        which = ", ".join(f"{self.names[job]} cell {n}/{t}" for job, (n, t) in cells.items())
        bar = (
            f"[{'#' * filled}{'.' * (width - filled)}] {done}/{self.total}  {clock(self.seconds_left())} left  {which}"
        )
        self.stream.write(f"\r{bar[:118]}\x1b[K")
        self.stream.flush()

    def end(self) -> None:
        if self.tty and self._drawn:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def _line(self, text: str) -> None:
        self.stream.write(f"\r{text}\x1b[K\n" if self.tty else f"{text}\n")
        self.stream.flush()


def clock(seconds: float) -> str:
    """75 -> '1 min 15 s'."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
