"""Messages through Reverb: weights to those who act, reports to the learner."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import reverb
from hypothesis import given
from hypothesis import strategies as st

from agents import Specs
from pipeline.messages.channel import (
    REPORTS_TABLE,
    VARIABLES_TABLE,
    WEIGHTS_TABLE,
    Publisher,
    Sender,
    server_answers,
    take,
    wait_for_server,
)
from pipeline.messages.contents import Announcement, Array, CollectorReport, Evaluation, Report, Variables, Weights
from pipeline.messages.variables_reader import VariablesReader
from pipeline.runtime import native
from pipeline.runtime.ports import free_port


@pytest.fixture
def address(serve: Any, make_experiment: Any, counting_specs: Specs) -> str:
    return str(serve(make_experiment(), counting_specs).address)


def report(number: int, episodes: int = 0) -> CollectorReport:
    """A report whose size grows with its episodes."""
    return CollectorReport(
        index=1,
        process="p",
        environment_steps=number,
        transitions=number,
        unconfirmed=0,
        episodes=episodes,
        returns=tuple(float(j) for j in range(episodes)),
        lengths=tuple(range(episodes)),
        epsilon=0.5,
        weights_age=0,
        weights_seconds=0.0,
        blocked_seconds=0.0,
        resident_bytes=1,
    )


EVALUATION = Evaluation(
    environment_steps=1,
    gradient_steps=2,
    mean_return=3.0,
    std_return=4.0,
    min_return=5.0,
    max_return=6.0,
    mean_length=7.0,
    episodes=8,
    seconds=9.0,
    resident_bytes=10,
    is_best=True,
)


def taken(address: str, table: str, kind: Any, count: int) -> list[Any]:
    """`take`, in a thread: one message too few would block this one for ever."""
    messages: list[Any] = []
    client = native.reverb_client(address)
    thread = threading.Thread(target=take, args=(client, table, kind, count, messages.append), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), f"{len(messages)} of {count} messages came"
    return messages


def weights(numbers: int) -> tuple[Array, ...]:
    random = np.random.default_rng(numbers)
    return (Array.of(random.normal(size=(numbers, 3)).astype(np.float32)), Array.of(np.arange(numbers)))


@given(
    st.sampled_from(("float32", "float64", "int64", "uint8", "bool", ">f4")),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 100),
)
def test_arrays_travel_unchanged(dtype: str, shape: list[int], seed: int) -> None:
    array = (np.random.default_rng(seed).normal(size=shape) * 10).astype(dtype)
    back = Array.of(array).numpy()
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_an_array_that_is_not_contiguous_travels_unchanged() -> None:
    array = np.arange(12).reshape(3, 4).T[::2]
    assert np.array_equal(Array.of(array).numpy(), array)


def test_messages_of_growing_and_shrinking_size_arrive_unchanged(address: str) -> None:
    sender = Sender(address, WEIGHTS_TABLE)
    for numbers in (1, 50, 100, 10_000, 300_000, 7, 0):
        sent = Weights((0, 0, numbers), bytes(range(256)) * (numbers // 10), weights(numbers), "text")
        assert sender.send(sent, 20.0)
        (received,) = taken(address, WEIGHTS_TABLE, Weights, 1)
        assert received == sent


@pytest.mark.parametrize("size", [1013, 1014, 1015, 1016, 1017, 2039, 2040, 2041])
def test_messages_around_a_whole_block_arrive_unchanged(address: str, size: int) -> None:
    assert Sender(address, REPORTS_TABLE).send("x" * size, 20.0)
    assert taken(address, REPORTS_TABLE, str, 1) == ["x" * size]


def test_the_newest_publication_is_taken_by_everybody(address: str) -> None:
    publisher = Publisher([address])
    for version in range(5):
        assert publisher.publish(Variables(version, 0, program=b"", weights=weights(version)), wait_for_all=True)
    for _ in range(3):
        assert taken(address, VARIABLES_TABLE, Announcement, 1)[0].gradient_steps == 4
        assert taken(address, WEIGHTS_TABLE, Weights, 1)[0].arrays == weights(4)


def inserted(address: str, table: str) -> int:
    return int(reverb.Client(address).server_info(10)[table].rate_limiter_info.insert_stats.completed)


def test_weights_travel_when_they_have_changed(address: str) -> None:
    publisher, reader = Publisher([address]), VariablesReader(address, 0.01)
    before = inserted(address, WEIGHTS_TABLE)
    for steps in range(6):
        version = steps // 3
        publication = Variables(version, steps, program=b"p", weights=weights(version), config="c")
        assert publisher.publish(publication, wait_for_all=True)
        deadline = time.monotonic() + 20
        while (newest := reader.newest) is None or newest.environment_steps != steps:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert newest == publication
    assert inserted(address, WEIGHTS_TABLE) - before == 2


def test_a_reader_keeps_weights_that_were_replaced_by_none(address: str) -> None:
    publication = Variables(3, 0, life=1, program=b"p", weights=weights(2))
    assert Publisher([address]).publish(publication, wait_for_all=True)
    reader = VariablesReader(address, 0.01)
    assert reader.wait(20, "the test") == publication
    announcement = msgspec.structs.replace(publication.parts()[0], stopping=True)  # the weights are known
    assert Sender(address, VARIABLES_TABLE).send(announcement, 20)
    deadline = time.monotonic() + 20
    while reader.newest is None or not reader.newest.stopping:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert reader.newest.weights == publication.weights


def test_reports_are_delivered_once_and_in_order(address: str) -> None:
    random = np.random.default_rng(0)
    sent: list[Report] = [report(number, int(random.integers(0, 300))) for number in range(150)]
    sent[70] = EVALUATION
    sender = Sender(address, REPORTS_TABLE)
    assert all(sender.send(message, 20.0) for message in sent)
    assert taken(address, REPORTS_TABLE, Report, 60) == sent[:60]
    assert taken(address, REPORTS_TABLE, Report, 90) == sent[60:]


def test_reports_of_several_senders_are_each_delivered_once(address: str) -> None:
    def send(first: int) -> None:
        sender = Sender(address, REPORTS_TABLE)
        for number in range(first, first + 40):
            assert sender.send(report(number), 20.0)

    threads = [threading.Thread(target=send, args=(100 * j,)) for j in range(3)]
    for thread in threads:
        thread.start()
    received = [message.environment_steps for message in taken(address, REPORTS_TABLE, Report, 120)]
    for thread in threads:
        thread.join()
    assert sorted(received) == [100 * j + number for j in range(3) for number in range(40)]
    for j in range(3):
        own = [number for number in received if number // 100 == j]
        assert own == sorted(own)


def test_reports_keep_their_kind(address: str) -> None:
    sender = Sender(address, REPORTS_TABLE)
    assert sender.send(report(1, 2), 20.0)
    assert sender.send(EVALUATION, 20.0)
    assert taken(address, REPORTS_TABLE, Report, 2) == [report(1, 2), EVALUATION]


def test_a_server_that_is_up_answers(address: str) -> None:
    assert server_answers(native.reverb_client(address))
    wait_for_server(address, 0.0, "somebody")


def test_waiting_for_no_server_ends_in_time_with_words() -> None:
    address = f"localhost:{free_port()}"
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=rf"collector 3 waited 1 s for the replay server at {address}"):
        wait_for_server(address, 1.0, "collector 3")
    assert 1.0 <= time.monotonic() - started < 5.0


# What fetches in a thread may wait in C++ for ever: each case has a process of its own that ends without it.

READING = """
import json, os, subprocess, sys, threading, time
from pipeline.runtime.ports import free_port
from pipeline.messages.channel import *
from pipeline.messages.contents import *
from pipeline.messages.variables_reader import VariablesReader

SERVE = '''
import sys, time
from pathlib import Path
from agents import ArraySpec, Specs
from pipeline.experiment.config import parse
from pipeline.replay.embedded import EmbeddedReplay
from pipeline.runtime.process import die_with_parent
die_with_parent()
specs = Specs(ArraySpec((4,), "float32"), 3)
server = EmbeddedReplay(parse(""), specs, int(sys.argv[1]), Path(sys.argv[2]))
print("ready", flush=True)
time.sleep(300)
'''

def serve():
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(port), sys.argv[1]], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\\n"
    return process, f"localhost:{port}"

def poll(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()

def end(**result):
    print(json.dumps(result), flush=True)
    os._exit(0)
"""


@pytest.fixture
def reading(run_python: Callable[..., str], tmp_path: Any) -> Callable[[str], Any]:
    return lambda code: json.loads(run_python(READING + code, str(tmp_path / "r"), timeout=25.0).splitlines()[-1])


def test_a_reader_gets_the_newest_until_the_server_dies(reading: Callable[[str], Any]) -> None:
    result = reading("""
server, address = serve()
publisher = Publisher([address])
reader = VariablesReader(address, 0.02)
before = reader.newest is None
publish = lambda *told, **more: publisher.publish(Variables(*told, program=b"", weights=(), **more), True)
first = publish(1, 10) and reader.wait(20, "somebody").gradient_steps
publish(2, 20)
publish(3, 30, stopping=True)
newest = poll(lambda: reader.newest.stopping) and reader.newest.gradient_steps
mark = reader.fetched_at
alive = poll(lambda: reader.fetched_at > mark)
server.kill()
server.wait()
poll(lambda: False, 0.5)
mark = reader.fetched_at
poll(lambda: False, 1.5)
end(before=before, first=first, newest=newest, alive=alive, silent=reader.fetched_at == mark,
    kept=reader.newest.gradient_steps)
""")
    assert result == {"before": True, "first": 1, "newest": 3, "alive": True, "silent": True, "kept": 3}


def test_waiting_for_no_publication_ends_in_time_with_words(reading: Callable[[str], Any]) -> None:
    result = reading("""
address = f"localhost:{free_port()}"
started = time.monotonic()
try:
    VariablesReader(address, 0.05).wait(1.0, "the evaluator")
except TimeoutError as error:
    end(words=str(error), seconds=time.monotonic() - started, address=address)
""")
    assert 1.0 <= result["seconds"] < 5.0
    assert "the evaluator waited 1 s" in result["words"]
    assert result["address"] in result["words"]


SEND_AFTER_DEATH = """
server, address = serve()
sender = Sender(address, REPORTS_TABLE)
first = sender.send("x", 10)
server.kill()
server.wait()
times = []
def send():
    for size in SIZES:
        started = time.monotonic()
        assert not sender.send("x" * size, 0.5)
        times.append(time.monotonic() - started)
thread = threading.Thread(target=send, daemon=True)
thread.start()
thread.join(10)
end(first=first, times=times)
"""


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 3000, 1)], ids=["equal sizes", "changing sizes"])
def test_sending_to_a_dead_server_fails_in_time(reading: Callable[[str], Any], sizes: tuple[int, ...]) -> None:
    result = reading(SEND_AFTER_DEATH.replace("SIZES", str(sizes)))
    assert result["first"]
    assert len(result["times"]) == 3
    assert max(result["times"]) < 3.0


def test_a_sender_whose_message_did_not_arrive_can_be_dropped(reading: Callable[[str], Any]) -> None:
    result = reading("""
server, address = serve()
sender = Sender(address, REPORTS_TABLE)
first = sender.send("x", 10)
server.kill()
server.wait()
second = sender.send("x", 0.5)
started = time.monotonic()
if hasattr(sender, "close"):
    sender.close()
del sender
end(first=first, second=second, seconds=time.monotonic() - started)
""")
    assert (result["first"], result["second"]) == (True, False)
    assert result["seconds"] < 5.0
