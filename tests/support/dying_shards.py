"""What the learner sees of two shards, each of which is killed and comes back; a program, as it leaves them dead.

`dying_shards.py FOLDER`, or `dying_shards.py FOLDER for good` of shards that do not come back. Prints what it saw as
JSON. That it ends at all shows that no thread that waits for a server is waited for.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from replay_hosting import Hosted
from replay_writing import write_frames
from waiting import SECONDS

from agents import ArraySpec, Specs
from pipeline.experiment.config import parse
from pipeline.replay.client import TableClient
from pipeline.replay.frames import FrameLayout
from pipeline.replay.shards.permits import Permits
from pipeline.replay.shards.sharded_replay import ShardedReplay

OVERRIDES = (
    "collect.lanes=1",
    "learner.batch_size=32",
    "learner.steps_per_call=10",
    "replay.min_size=16",
    "replay.shards=2",
    "replay.prioritized=true",
)
SPECS = Specs(ArraySpec((4,), "float32"), 3)
ITEMS = (200, 400)


def wait_for(condition: Callable[[], Any], what: str) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain: {what}")
        time.sleep(0.02)


class Learning:
    """Draws calls in a thread."""

    def __init__(self, shards: ShardedReplay) -> None:
        self._shards = shards
        self.calls: list[Any] = []
        threading.Thread(target=self._draw, daemon=True).start()

    def _draw(self) -> None:
        for sample in self._shards.samples():
            self.calls.append(sample)
            time.sleep(0.01)

    def owners(self, calls: int) -> list[int]:
        """The shards that own what the next calls have."""
        self.calls.clear()
        wait_for(lambda: len(self.calls) >= calls, f"{calls} calls: {self._shards.explain_stall()}")
        return sorted({int(owner) for sample in self.calls[:calls] for owner in sample.shards.numpy()})


def main(folder: Path, come_back: bool) -> dict[str, Any]:
    """Kills shard 1, has it back, kills shard 0, has it back, and kills both."""
    experiment, layout, seen = parse("", OVERRIDES), FrameLayout(SPECS), {}
    shared = {"overrides": OVERRIDES, "blocking": False}  # permits for all that is drawn here
    arguments = [{**shared, "folder": str(folder / str(shard)), "shard": shard} for shard in range(2)]
    hosts = [Hosted(server) for server in arguments]
    addresses = [host.addresses[0] for host in hosts]
    for host in hosts:
        host.wait()
    permits = Permits(experiment, addresses[0])
    for shard, items in enumerate(ITEMS):
        frames = np.stack([layout.empty(1) for _ in range(items + 1)])
        writer = write_frames(TableClient(experiment, SPECS, addresses[shard]), experiment, layout, frames)
        permits.spend(writer.book.confirmed_windows)
        permits.confirm(lambda: True)
        writer.close()
    stored = [host.checkpoint(0) for host in hosts]
    shards = ShardedReplay(experiment, SPECS, addresses)
    learning = Learning(shards)

    def revive(shard: int) -> None:
        hosts[shard] = Hosted(
            {**hosts[shard].servers[0], "restore_from": stored[shard], "folder": str(folder / f"{shard}b")}
        )
        hosts[shard].wait()

    def write_back() -> int:
        """Priorities skipped, of items of both shards."""
        before, sample = shards.skipped_priorities, both
        shards.update_priorities(sample.keys.numpy(), np.ones((10, 32), np.float32), sample.shards.numpy())
        return shards.skipped_priorities - before

    wait_for(lambda: learning.calls and len(set(learning.calls[-1].shards.numpy())) == 2, "both shards give")
    both = learning.calls[-1]
    of_shard_1 = len(set(both.keys.numpy()[both.shards.numpy() == 1]))
    seen["first skipped"] = write_back()

    hosts[1].kill()
    unaware = threading.Thread(target=write_back, daemon=True)  # nobody knows yet
    unaware.start()
    wait_for(lambda: "shard 1" in shards.explain_stall(), "shard 1 is found to be away")
    unaware.join(SECONDS)
    learning.owners(10)
    seen["without shard 1"] = learning.owners(20)
    seen["skipped without shard 1"] = write_back() == of_shard_1
    tally = shards.tally()
    seen["last known"] = [tally.inserted, tally.present, shards.size()]
    seen["named without shard 1"] = "shard 1 at " in shards.warning and "shard 0" not in shards.warning
    seen["waits without shard 1"] = shards.waits_for_collectors()
    if come_back:
        revive(1)
        wait_for(lambda: learning.owners(5) == [0, 1], "shard 1 gives again")
        wait_for(lambda: write_back() == 0, "shard 1 takes priorities again")

    hosts[0].kill()
    wait_for(lambda: "the learner waits for shard 0" in shards.explain_stall(), "shard 0 is found to be away")
    seen["named without shard 0"] = "it holds the ratio" in shards.warning
    seen["waits without shard 0"] = shards.waits_for_collectors()
    if come_back:
        revive(0)
        permits.spend(400)
        seen["permits again"] = permits.confirm(lambda: time.monotonic() < started + 5 * SECONDS)
        wait_for(lambda: learning.owners(5) == [0, 1], "shard 0 gives again")
        for host in hosts:
            host.kill()
    wait_for(lambda: "does not answer" in shards.explain_stall(), "both are found to be away")
    threading.Thread(target=write_back, daemon=True).start()
    shards.stop()
    return seen


if __name__ == "__main__":
    started = time.monotonic()
    print(json.dumps(main(Path(sys.argv[1]), come_back=len(sys.argv) == 2)), flush=True)
    os._exit(0)  # threads that wait for servers that are gone stay where they are
