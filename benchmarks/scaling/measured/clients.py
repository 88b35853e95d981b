"""Light clients of a replay or a relay, for itself: they only fetch, only report or only write, many to a process."""

import json
import os
import sys
import threading
import time

import numpy as np

from benchmarks.processes import say
from benchmarks.scaling.measured.experiments import FREE_INSERTS, experiment_of
from pipeline import environments
from pipeline.messages.channel import Sender
from pipeline.messages.contents import REPORTS_TABLE, CollectorReport
from pipeline.messages.traffic import Traffic
from pipeline.messages.variables_reader import VariablesReader
from pipeline.replay.frames import FrameLayout
from pipeline.replay.writer import FrameWriter

_EPISODES = 5  # of a report
_SEND_SECONDS = 10.0
_START_SECONDS = 60.0


def spelled(number: int, port: str) -> str:
    """This machine, spelled anew for each number: clients of equal addresses would share a connection."""
    letters = "".join(letter.upper() if number >> place & 1 else letter for place, letter in enumerate("localhost"))
    return f"{letters}:{port}"


def fetch(addresses: list[str], first: int, count: int, seconds: float) -> None:
    """Starts clients that fetch as collectors do, dealt to the addresses in turn; waits until each has weights."""
    readers = []
    for number in range(first, first + count):
        _, port = addresses[number % len(addresses)].split(":")
        readers.append(VariablesReader(spelled(number, port), seconds))
    for reader in readers:
        reader.wait(_START_SECONDS, "a client")


def report(addresses: list[str], _: int, count: int, seconds: float) -> None:
    """Starts clients that report as collectors do."""
    (address,) = addresses

    def send(number: int) -> None:
        sender = Sender(address, REPORTS_TABLE)
        lengths = (100,) * _EPISODES
        told = CollectorReport(
            index=0,
            process=f"client-{number}",
            returns=(100.0,) * _EPISODES,
            lengths=lengths,
            epsilon=0.1,
            weights_age=0,
            weights_seconds=0.1,
            blocked_seconds=0.0,
            resident_bytes=1,
        )
        while True:
            started = time.monotonic()
            sender.send(told, _SEND_SECONDS)
            time.sleep(max(0.0, seconds - (time.monotonic() - started)))

    for number in range(count):
        threading.Thread(target=send, args=(number,), daemon=True).start()


def write(addresses: list[str], first: int, count: int, _: float) -> None:
    """Starts writers of frames as fast as the replay takes them, dealt to its servers in turn."""
    experiment = experiment_of(FREE_INSERTS, len(addresses))
    specs = environments.describe(experiment.environment)
    layout, lanes = FrameLayout.of(experiment, specs), experiment.collect.lanes
    frames, random = layout.empty(lanes), np.random.default_rng(0)
    for name, spec in specs.leaves().items():  # what does not compress
        frames[layout.leaf_field(name)] = random.normal(size=(lanes, *spec.shape))

    def append(address: str) -> None:
        writer = FrameWriter.of(experiment, layout, address)
        while True:
            writer.append(frames)
            writer.confirm(lambda: True)

    for number in range(first, first + count):
        threading.Thread(target=append, args=(addresses[number % len(addresses)],), daemon=True).start()


def main() -> None:
    """Starts them and answers each line with the bytes sent and received."""
    what, addresses, first, count, seconds = json.loads(sys.argv[1])
    {"fetch": fetch, "report": report, "write": write}[what](addresses, first, count, seconds)
    traffic = Traffic()
    say("ready")
    for _ in sys.stdin:
        say(traffic.read())
    os._exit(0)


if __name__ == "__main__":
    main()
