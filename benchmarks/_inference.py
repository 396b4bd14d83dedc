"""Compares inference times: arms that each predict one batch run in turns, and the ratio of their times is measured."""

import statistics
import time


class Arm:
    """A function that predicts one batch. `times` holds, for each round, the seconds of processor time of a call.

    Args:
        call: Function without arguments that predicts the batch.
        seconds: About how long the arm runs in a round.
    """

    def __init__(self, call, seconds):
        self._call, self.times = call, []
        call()
        start = time.process_time()
        call()
        self._calls = max(1, round(seconds / max(time.process_time() - start, 1e-6)))

    def run(self):
        start = time.process_time()
        for _ in range(self._calls):
            self._call()
        self.times.append((time.process_time() - start) / self._calls)


def run_in_turns(arms, rounds):
    """Runs every arm once in each round."""
    for _ in range(rounds):
        for arm in arms:
            arm.run()


def speed(dense, arm):
    """The median time of an arm, and the median over rounds of its speed relative to the dense arm."""
    ratio = statistics.median(a / b for a, b in zip(dense.times, arm.times, strict=True))
    return f"{1e3 * statistics.median(arm.times):.3f} ms = {ratio:.2f}x"
