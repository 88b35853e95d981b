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
from waiting import SECONDS

from agents import Specs
from pipeline import UsageError
from pipeline.experiment.config import dump
from pipeline.messages import variables_reader
from pipeline.messages.channel import (
    VARIABLES_TABLE,
    WEIGHTS_TABLE,
    Publisher,
    Sender,
    server_answers,
    take,
    wait_for_server,
)
from pipeline.messages.contents import (
    REPORTS_TABLE,
    Announcement,
    Array,
    CollectorReport,
    Evaluation,
    Report,
    Variables,
    Weights,
)
from pipeline.messages.ports import free_port
from pipeline.messages.variables_reader import VariablesReader
from pipeline.runtime import native


@pytest.fixture
def address(serve: Any, make_experiment: Any, counting_specs: Specs) -> str:
    return str(serve(make_experiment(), counting_specs).address)


def report(number: int, episodes: int = 0) -> CollectorReport:
    """A report whose size grows with its episodes."""
    return CollectorReport(
        index=1,
        process="p",
        environment_steps=number,
        windows=number,
        begun=number,
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
    thread.join(120)
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
        assert sender.send(sent, 120.0)
        (received,) = taken(address, WEIGHTS_TABLE, Weights, 1)
        assert received == sent


@pytest.mark.parametrize("size", [1013, 1014, 1015, 1016, 1017, 2039, 2040, 2041])
def test_messages_around_a_whole_block_arrive_unchanged(address: str, size: int) -> None:
    assert Sender(address, REPORTS_TABLE).send("x" * size, 120.0)
    assert taken(address, REPORTS_TABLE, str, 1) == ["x" * size]


def test_the_newest_publication_is_taken_by_everybody(address: str) -> None:
    publisher = Publisher([address])
    for version in range(5):
        assert publisher.publish(Variables(version, 0, program=b"", weights=weights(version)), wait_for_all=True)
    for _ in range(3):
        assert taken(address, VARIABLES_TABLE, Announcement, 1)[0].gradient_steps == 4
        assert taken(address, WEIGHTS_TABLE, Weights, 1)[0].arrays == weights(4)


def passed(address: str, table: str) -> tuple[int, int]:
    """Messages that a table has taken and given."""
    of = reverb.Client(address).server_info(60)[table].rate_limiter_info
    return of.insert_stats.completed, of.sample_stats.completed


def test_weights_travel_when_they_have_changed(address: str) -> None:
    publisher, reader = Publisher([address]), VariablesReader(address, 0.01)
    assert passed(address, WEIGHTS_TABLE) == (0, 0)
    for steps in range(6):
        version = steps // 3
        publication = Variables(version, steps, program=b"p", weights=weights(version), config="c")
        assert publisher.publish(publication, wait_for_all=True)
        deadline = time.monotonic() + SECONDS
        while (newest := reader.newest) is None or newest.environment_steps != steps:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert newest == publication
    reader.close()
    assert passed(address, WEIGHTS_TABLE) == (2, 2)


def test_a_reader_keeps_weights_that_were_replaced_by_none(address: str) -> None:
    publication = Variables(3, 0, life=1, program=b"p", weights=weights(2))
    assert Publisher([address]).publish(publication, wait_for_all=True)
    reader = VariablesReader(address, 0.01)
    assert reader.wait(120, "the test") == publication
    announcement = msgspec.structs.replace(publication.parts()[0], stopping=True)  # the weights are known
    assert Sender(address, VARIABLES_TABLE).send(announcement, 120)
    deadline = time.monotonic() + SECONDS
    while reader.newest is None or not reader.newest.stopping:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert reader.newest.weights == publication.weights
    reader.close()


LEFTOVERS = {"of a run that has ended": {"stopping": True, "ended": True}, "of another run": {"config": "seed = 7"}}


@pytest.mark.parametrize("leftover", LEFTOVERS.values(), ids=LEFTOVERS)
@pytest.mark.parametrize("is_forgotten", [True, False])
def test_what_a_restored_server_has_for_a_moment_sends_nobody_away(
    leftover: dict[str, Any], is_forgotten: bool, serve: Any, make_experiment: Any, counting_specs: Specs
) -> None:
    experiment = make_experiment()
    server = serve(experiment, counting_specs)
    now = Variables(1, 0, weights=(Array.of(np.zeros(1, np.float32)),), program=b"", config=dump(experiment), life=2)
    publisher = Publisher([server.address])
    publisher.publish(msgspec.structs.replace(now, life=1, **leftover), wait_for_all=True)
    reader = VariablesReader(server.address, 0.05)
    assert reader.wait(60.0, "the test").life == 1
    if is_forgotten:

        def begin_anew() -> None:
            client = reverb.Client(server.address)
            for table in (VARIABLES_TABLE, WEIGHTS_TABLE):
                client.reset(table)
            publisher.publish(now, wait_for_all=True)

        timer = threading.Timer(0.5, begin_anew)
        timer.start()
        assert reader.join(experiment, 60.0, "the test").life == 2
        timer.join()
    elif "config" in leftover:
        with pytest.raises(UsageError, match="give all roles the same"):
            reader.join(experiment, 60.0, "the test")
    else:
        assert reader.join(experiment, 60.0, "the test").ended
    reader.close()
    publisher.close()


def test_a_reader_of_the_run_that_a_dataset_is_of_gets_the_weights_of_its_own(
    serve: Any, make_experiment: Any, counting_specs: Specs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variables_reader, "_LEFTOVER_SECONDS", 0.2)
    experiment = make_experiment()
    server = serve(experiment, counting_specs)
    own = Variables(0, 0, life=1, weights=weights(1), program=b"own", config=dump(experiment))
    trained = msgspec.structs.replace(own, gradient_steps=900, weights=weights(2), program=b"other", config="seed = 7")
    publisher, client = Publisher([server.address]), reverb.Client(server.address)
    publisher.publish(trained, wait_for_all=True)
    reader = VariablesReader(server.address, 0.05)
    assert reader.wait(60.0, "the test") == trained
    for table in (VARIABLES_TABLE, WEIGHTS_TABLE):
        client.reset(table)
    # Later than what is left over may count: a learner takes so long to be built on a machine that others use.
    timer = threading.Timer(0.8, lambda: publisher.publish(own, wait_for_all=True))
    timer.start()
    assert reader.join(experiment, 60.0, "the test") == own
    timer.join()
    reader.close()
    publisher.close()


def test_reports_are_delivered_once_and_in_order(address: str) -> None:
    random = np.random.default_rng(0)
    sent: list[Report] = [report(number, int(random.integers(0, 300))) for number in range(150)]
    sent[70] = EVALUATION
    sender = Sender(address, REPORTS_TABLE)
    assert all(sender.send(message, 120.0) for message in sent)
    assert taken(address, REPORTS_TABLE, Report, 60) == sent[:60]
    assert taken(address, REPORTS_TABLE, Report, 90) == sent[60:]


def test_reports_of_several_senders_are_each_delivered_once(address: str) -> None:
    def send(first: int) -> None:
        sender = Sender(address, REPORTS_TABLE)
        for number in range(first, first + 40):
            assert sender.send(report(number), 120.0)

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
    assert sender.send(report(1, 2), 120.0)
    assert sender.send(EVALUATION, 120.0)
    assert taken(address, REPORTS_TABLE, Report, 2) == [report(1, 2), EVALUATION]


def test_a_server_that_is_up_answers(address: str) -> None:
    assert server_answers(native.reverb_client(address))
    wait_for_server(address, 0.0, "somebody")


def test_waiting_for_no_server_ends_in_time_with_words() -> None:
    address = f"localhost:{free_port()}"
    with pytest.raises(TimeoutError, match=rf"collector 3 waited 1 s for the replay server at {address}"):
        wait_for_server(address, 1.0, "collector 3")


def test_a_reader_that_is_closed_leaves_no_thread(address: str) -> None:
    publication = Variables(1, 0, program=b"", weights=weights(1))
    assert Publisher([address]).publish(publication, wait_for_all=True)
    before = set(threading.enumerate())
    reader = VariablesReader(address, 1_000.0)  # it would look again in a quarter of an hour
    assert reader.wait(60, "the test") == publication
    reader.close()
    deadline = time.monotonic() + SECONDS
    while left := set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, f"waited in vain for the end of {left}"
        time.sleep(0.01)
    assert reader.newest == publication


# What fetches or sends in a thread may wait in C++ for ever: a program of its own ends without it.

WITHOUT_A_SERVER = """
import json, os, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pipeline.messages.contents import *
from pipeline.messages.ports import free_port
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
time.sleep(3000)
'''

def until(condition):
    deadline = time.monotonic() + 600.0
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()

def publish(*told, **more):
    return publisher.publish(Variables(*told, program=b"", weights=(), **more), True)

def send(sender, sizes):
    return [sender.send("x" * size, 0.5) for size in sizes]

def wait_in_vain():
    try:
        nobody.wait(1.0, "the evaluator")
    except TimeoutError as error:
        return str(error)

port = free_port()
server = subprocess.Popen([sys.executable, "-c", SERVE, str(port), sys.argv[1]], stdout=subprocess.PIPE)
assert server.stdout.readline() == b"ready\\n"
address, nowhere = f"localhost:{port}", f"localhost:{free_port()}"
publisher, reader = Publisher([address]), VariablesReader(address, 0.02)
nobody = VariablesReader(nowhere, 0.05)
found = {"before": reader.newest is None}
found["first"] = publish(1, 10) and reader.wait(60, "somebody").gradient_steps
publish(2, 20)
publish(3, 30, stopping=True)
found["newest"] = until(lambda: reader.newest.stopping) and reader.newest.gradient_steps
mark = reader.fetched_at
found["alive"] = until(lambda: reader.fetched_at > mark)
senders = [Sender(address, REPORTS_TABLE) for _ in range(3)]
found["sent"] = [sender.send("x", 60) for sender in senders]
server.kill()
server.wait()

with ThreadPoolExecutor(4) as pool:  # that the program goes on shows that all of these end
    words = pool.submit(wait_in_vain)
    equal, changing = pool.submit(send, senders[0], (1, 1, 1)), pool.submit(send, senders[1], (1, 3000, 1))
    dropped = pool.submit(send, senders[2], (1,))
    found["dead"] = [future.result() for future in (equal, changing, dropped)]
    found["words"] = words.result().replace(nowhere, "NOWHERE")
senders.pop().close()  # and so does leaving a sender whose message did not arrive
silent_from = reader.fetched_at
time.sleep(0.5)
found["silent"] = reader.fetched_at == silent_from
found["kept"] = reader.newest.gradient_steps
print(json.dumps(found), flush=True)
os._exit(0)
"""


def test_without_its_server_all_that_waits_ends(run_python: Callable[..., str], tmp_path: Any) -> None:
    found = json.loads(run_python(WITHOUT_A_SERVER, str(tmp_path / "r")).splitlines()[-1])
    assert found == {
        "before": True,
        "first": 1,
        "newest": 3,
        "alive": True,
        "sent": [True] * 3,
        "dead": [[False] * 3, [False] * 3, [False]],
        "words": "the evaluator waited 1 s for the learner's first weights at NOWHERE",
        "silent": True,
        "kept": 3,
    }
