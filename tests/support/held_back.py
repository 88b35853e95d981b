"""Who waits for whom at a replay's limiter: a program, as what waits there waits in C++ and is never waited for.

Each case has replays of its own, and all run beside each other. Prints what each saw as JSON, by its name.
"""

import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from waiting import SECONDS

from agents import ArraySpec, Specs
from pipeline.experiment.config import parse
from pipeline.messages.ports import free_port
from pipeline.replay.embedded import EmbeddedReplay
from pipeline.replay.frames import FrameLayout
from pipeline.replay.writer import FrameWriter

SPECS = Specs(ArraySpec((4,), "float32"), 3)
LAYOUT = FrameLayout(SPECS)
SIZES = ("collect.lanes=4", "replay.steps_per_item=1", "learner.batch_size=8", "learner.steps_per_call=2")
LIMITED = ("replay.min_size=40", "replay.samples_per_insert=1.0")
STARTING = threading.Lock()
FOLDERS = itertools.count()
CASES: dict[str, Callable[[Path], dict[str, Any]]] = {}
KEPT: list[Any] = []
"""Replays to the program's end: a server that is collected as garbage waits for those who wait for it."""


def case(name: str) -> Callable[[Any], Any]:
    """Adds a function to the cases."""

    def add(function: Any) -> Any:
        CASES[name] = function
        return function

    return add


class Replay:
    """A replay with a writer, which waits where the limiter holds it back, and draws that wait in a thread."""

    def __init__(self, folder: Path, *overrides: str, restore_from: Path | None = None, blocking: bool = True) -> None:
        experiment = parse("", (*SIZES, *overrides))
        with STARTING:  # two that look for a free port at once may find the same
            own = folder / str(next(FOLDERS))
            self.server = EmbeddedReplay(experiment, SPECS, free_port(), own, restore_from, blocking)
        self.writer = FrameWriter(self.server.address, LAYOUT, 4, experiment.lanes_per_item, 2)
        self.taken, self._is_drawn_from = 0, False
        KEPT.append(self)

    def fill(self, steps: int) -> int:
        """Appends up to a number of steps; how many went in before the limiter held the writer back for good."""
        deadline = time.monotonic() + SECONDS
        for step in range(steps):
            self.writer.append(LAYOUT.empty(4))
            if not self.writer.confirm(lambda: time.monotonic() < deadline and not self.holds_inserts()):
                return step
        return steps

    def finish(self) -> bool:
        """Waits until all that was appended is stored."""
        deadline = time.monotonic() + SECONDS
        return self.writer.confirm(lambda: time.monotonic() < deadline, everything=True)

    def holds_inserts(self) -> bool:
        """Whether nobody draws, and Reverb lets no further item in."""
        of = self.server.info().rate_limiter_info
        inserted, sampled = of.insert_stats.completed, of.sample_stats.completed
        would_be = (inserted + 1) * of.samples_per_insert - sampled
        return not self._is_drawn_from and inserted >= of.min_size_to_sample and would_be > of.max_diff

    def start_taking(self) -> None:
        """Draws in a thread, for ever."""
        self._is_drawn_from = True
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        for _ in self.server.dataset():
            self.taken += 1

    def draws(self) -> bool:
        """Waits until a call has been drawn."""
        deadline = time.monotonic() + SECONDS
        while not self.taken and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.taken > 0

    def settle(self) -> int:
        """Calls drawn, once no more have come for a while."""
        seen = -1
        while seen != self.taken:
            seen = self.taken
            time.sleep(1.0)
        return self.taken


@case("before the minimum")
def before_the_minimum(folder: Path) -> dict[str, Any]:
    replay = Replay(folder, "replay.min_size=102", "replay.samples_per_insert=1.0")
    replay.fill(25)  # 24 items of 4 transitions; 102 transitions need 26
    replay.finish()
    replay.start_taking()
    early, words = replay.settle(), replay.server.explain_stall()
    replay.fill(2)
    replay.finish()
    return {"early": early, "words": words, "late": replay.draws()}


@case("collectors ahead")
def collectors_ahead(folder: Path) -> dict[str, Any]:
    replay = Replay(folder, *LIMITED)
    appended = replay.fill(1000)
    words, inserted = replay.server.explain_stall(), replay.server.tally().inserted
    replay.start_taking()
    confirmed = replay.finish()
    return {
        "appended": appended,
        "words": words,
        "inserted": inserted,
        "confirmed": confirmed,
        "after": replay.server.tally().inserted,
        "transitions": replay.writer.book.confirmed_windows,
    }


@case("learner ahead")
def learner_ahead(folder: Path) -> dict[str, Any]:
    replay = Replay(folder, *LIMITED)
    replay.fill(15)
    replay.finish()
    replay.start_taking()
    replay.draws()
    drawn = replay.settle()
    of = replay.server.info().rate_limiter_info
    return {"drawn": drawn, "words": replay.server.explain_stall(), "slack": of.max_diff - of.min_diff}


@case("a long run")
def a_long_run(folder: Path) -> dict[str, Any]:
    replay = Replay(folder, "replay.min_size=40", "replay.samples_per_insert=2.0")
    replay.start_taking()
    appended = replay.fill(1500)
    replay.finish()
    of = replay.server.info().rate_limiter_info
    return {
        "appended": appended,
        "inserts": of.insert_stats.completed,
        "samples": of.sample_stats.completed,
        "slack": of.max_diff - of.min_diff,
    }


@case("without blocking")
def without_blocking(folder: Path) -> dict[str, Any]:
    return {"appended": Replay(folder, *LIMITED, blocking=False).fill(2000)}


@case("restored")
def restored(folder: Path) -> dict[str, Any]:
    """A replay of which copies go on, each with other settings."""
    first = Replay(folder, *LIMITED, "replay.capacity=2000")
    first.start_taking()
    before = first.fill(80)
    first.finish()
    path, found = first.server.save(), {}
    for change, blocking in RESTORED:
        other = Replay(folder, *LIMITED, "replay.capacity=2000", *change, restore_from=path, blocking=blocking)
        other.start_taking()
        after = other.fill(150)
        other.finish()
        found[" ".join(change)] = {
            "before": before,
            "after": after,
            "inserts": other.server.tally().inserted,
            "went_on": other.draws(),
        }
    return found


RESTORED = (
    ((), True),
    (("replay.samples_per_insert=8.0",), True),
    (("replay.samples_per_insert=0.5",), True),
    (("replay.min_size=400",), True),
    (("replay.capacity=200",), True),
    (("replay.min_size=40",), False),
)


@case("giving up")
def giving_up(folder: Path) -> dict[str, Any]:
    replay = Replay(folder, *LIMITED)
    appended = replay.fill(1000)
    confirmed = replay.writer.confirm(lambda: False, everything=True)
    return {
        "confirmed": confirmed,
        "appended": appended,
        "inserted": replay.server.tally().inserted,
        "counted": replay.writer.book.confirmed_windows,
        "pending": replay.writer.book.unconfirmed_windows,
    }


def main(folder: Path) -> dict[str, Any]:
    """Runs all cases; one that fails says with what."""

    def run(name: str) -> dict[str, Any]:
        try:
            return CASES[name](folder)
        except Exception:
            return {"failed": traceback.format_exc()}

    with ThreadPoolExecutor(len(CASES)) as pool:
        return dict(zip(CASES, pool.map(run, CASES), strict=True))


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))), flush=True)
    os._exit(0)  # without the threads that still wait
