"""Acting at a server: the same Q-values as by oneself, whatever happens to the server and to other collectors."""

import logging
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from acting import Serving, asking, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import SECONDS, wait_until

from agents import ArraySpec, Specs, build
from pipeline.acting import central_actor
from pipeline.acting.central_actor import CentralActor, Unanswered
from pipeline.acting.central_words import Hello, Layout, Reply, packed, refuse_place
from pipeline.acting.network_program import convert, make_actor
from pipeline.experiment.config import UsageError, parse
from pipeline.messages.contents import Array, Variables

LANES, DEADLINE = 4, SECONDS
CENTRAL = ("collect.inference='central'", f"collect.lanes={LANES}", "collect.collectors=4")
SPECS = Specs({"camera": ArraySpec((4, 4, 1), "uint8", (255,)), "speed": ArraySpec((3,), "float32")}, 2)
KINDS = {
    "dqn": ("agent.hidden_units=[8]",),
    "noisy": ("agent.hidden_units=[8]", "agent.noisy=true", "exploration.strategy='greedy'"),
    "memory": ("agent.kind='r2d2'", "agent.hidden_units=[8]", "agent.lstm_units=6", "replay.steps_per_item=1"),
}


def weights_of(model: Any, seed: int) -> tuple[Array, ...]:
    random = np.random.default_rng(seed)
    return tuple(Array.of((random.normal(size=weight.shape) * 0.3).astype(np.float32)) for weight in model.weights)


@pytest.fixture(scope="module", params=KINDS)
def learned(request: pytest.FixtureRequest) -> Any:
    """An experiment, and publications of its network with other weights each."""
    experiment = parse("", (*CENTRAL, *KINDS[request.param]))
    agent = build(experiment.agent.kind, SPECS, experiment.agent)
    program = convert(agent.acting_model, SPECS, agent.noise_units + experiment.agent.state_units)
    assert program

    def publication(gradient_steps: int) -> Variables:
        arrays = weights_of(agent.acting_model, gradient_steps)
        return Variables(gradient_steps, 0, program=program, weights=arrays)

    return experiment, publication


@pytest.fixture
def experiment() -> Any:
    return parse("", (*CENTRAL, *KINDS["dqn"]))


@pytest.fixture(scope="module")
def published() -> Variables:
    model = build("dqn", SPECS, parse("", KINDS["dqn"]).agent).acting_model
    return Variables(5, 0, program=convert(model, SPECS), weights=weights_of(model, 5))


def observe(random: np.random.Generator) -> dict[str, Any]:
    return {
        "camera": random.integers(0, 256, (LANES, 4, 4, 1), np.uint8),
        "speed": random.normal(size=(LANES, 3)).astype(np.float32),
    }


def local(experiment: Any, variables: Variables) -> Any:
    weights = [array.numpy() for array in variables.weights]
    return make_actor(experiment.agent, SPECS, LANES, variables.program, weights)


@pytest.mark.parametrize("place", ["127.0.0.1:0", "unix"])
def test_scores_are_those_of_acting_by_oneself(learned: Any, place: str, tmp_path: Path) -> None:
    """Weights change, episodes begin, the server is killed and comes back: Q-values, states and draws stay the same."""
    experiment, publication = learned
    address = place if place != "unix" else f"unix:{tmp_path / 'a.sock'}"
    variables = publication(1)
    own, central_draws, own_draws = local(experiment, variables), np.random.default_rng(1), np.random.default_rng(1)
    first = Serving(experiment, SPECS, variables, address)
    seen = np.random.default_rng(0)
    with asking(first.address, experiment, SPECS) as actor:
        running = first
        for step in range(40):
            if step == 10:
                variables = running.server.network.variables = publication(2)
                own.set_weights([array.numpy() for array in variables.weights])
            if step == 25:
                running.stop()
                running = Serving(experiment, SPECS, variables, first.address)
            begins = np.arange(LANES) == step % (2 * LANES)
            for each in (own, actor):
                experiment.agent.begin_states(each.state, begins, None)
            observation, silent = observe(seen), step % 7 == 6
            scores = actor.q_values(observation, None if silent else central_draws)
            expected = own.q_values(observation, None if silent else own_draws)
            np.testing.assert_array_equal(scores, expected)
            np.testing.assert_array_equal(actor.state, own.state)
            assert actor.version == variables.version
        running.stop()
    assert central_draws.random() == own_draws.random(), "as many draws were made, of the collector's own stream"


def test_collectors_that_ask_at_once_are_answered_together_each_with_its_own(learned: Any) -> None:
    experiment, publication = learned
    variables = publication(1)
    owns = [local(experiment, variables) for _ in range(3)]
    with serving(experiment, SPECS, variables) as running:
        actors = [CentralActor(running.address, experiment, SPECS, f"c{n}", lambda: True) for n in range(3)]
        running.hold_back()
        for step in range(4):
            seen = [observe(np.random.default_rng([step, number])) for number in range(3)]
            draws = [np.random.default_rng([7, step, number]) for number in range(3)]
            found: list[Any] = [None] * 3

            def ask(number: int, seen: Any = seen, draws: Any = draws, found: Any = found) -> None:
                found[number] = actors[number].q_values(seen[number], draws[number])

            threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(0.05)
            running.go_on()
            for thread in threads:
                thread.join(DEADLINE)
            running.hold_back()
            for number, own in enumerate(owns):
                expected = own.q_values(seen[number], np.random.default_rng([7, step, number]))
                np.testing.assert_allclose(found[number], expected, atol=1e-6)
                np.testing.assert_allclose(actors[number].state, own.state, atol=1e-6)
        served = running.server.served()
        assert (served.collectors, served.requests) == (3, 12)
        assert served.calls < 12, "some were answered together"
        running.go_on()
        for actor in actors:
            actor.close()


def test_what_a_collector_leaves_half_sent_holds_nothing(experiment: Any, published: Variables) -> None:
    with serving(experiment, SPECS, published) as running, asking(running.address, experiment, SPECS) as other:
        host, _, port = running.address.rpartition(":")
        with socket.create_connection((host, int(port))) as dying:
            dying.sendall(packed(Hello("dying", LANES)))
            wait_until(lambda: running.server.served().collectors == 2, "both are connected")
            dying.sendall(struct.pack("<I", 100) + bytes(10))
            other.q_values(observe(np.random.default_rng(0)))
        wait_until(lambda: running.server.served().collectors == 1, "the states of the one that died are forgotten")
        other.q_values(observe(np.random.default_rng(0)))
        assert running.server.served().requests == 2


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (struct.pack("<I", 0xFFFFFFFF), "a message of 4294967295 bytes"),
        (struct.pack("<I", 3) + b"\xff\xff\xff", "no longer connected"),
        (packed(Hello("odd", LANES)) + struct.pack("<IIII", 12, 0, 0, 0), "a request of 16 bytes"),
        (packed(Hello("odd", LANES)) + struct.pack("<IIII", 140, 9, 4_000_000_000, 0) + bytes(128), "lanes have new"),
    ],
)
def test_what_is_no_message_ends_its_own_connection_alone(
    experiment: Any, published: Variables, caplog: pytest.LogCaptureFixture, sent: bytes, words: str
) -> None:
    with (
        caplog.at_level(logging.INFO),
        serving(experiment, SPECS, published) as running,
        asking(running.address, experiment, SPECS) as other,
    ):
        host, _, port = running.address.rpartition(":")
        with socket.create_connection((host, int(port)), DEADLINE) as odd:
            odd.sendall(sent)
            while odd.recv(4096):
                pass
        other.q_values(observe(np.random.default_rng(0)))
    assert words in caplog.text


def test_a_message_that_stays_half_sent_is_given_up(
    experiment: Any, published: Variables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.acting.acting_server._HALF_SECONDS", 0.1)
    with serving(experiment, SPECS, published) as running:
        host, _, port = running.address.rpartition(":")
        with socket.create_connection((host, int(port)), DEADLINE) as slow:
            slow.sendall(b"\x01")
            assert slow.recv(1) == b""


def test_no_more_are_let_in_than_there_may_be(experiment: Any, published: Variables) -> None:
    with serving(experiment, SPECS, published) as running:
        host, _, port = running.address.rpartition(":")
        there = [socket.create_connection((host, int(port)), DEADLINE) for _ in range(4 + 8)]
        wait_until(lambda: len(running.server._clients) == len(there), "they are there")
        with socket.create_connection((host, int(port)), DEADLINE) as one_more:
            assert one_more.recv(1) == b""
        for connection in there:
            connection.close()
        wait_until(lambda: not running.server._clients, "they have gone")
        with asking(running.address, experiment, SPECS) as actor:
            actor.q_values(observe(np.random.default_rng(0)))


def test_a_server_that_does_not_answer_is_named(
    experiment: Any, published: Variables, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(central_actor, "_TICK_SECONDS", 0.02)
    monkeypatch.setattr(central_actor, "_SLOW_SECONDS", 0.1)
    hasty = msgspec.structs.replace(experiment, collect=msgspec.structs.replace(experiment.collect, away_seconds=0.5))
    observation = observe(np.random.default_rng(0))
    with serving(hasty, SPECS, published) as running, asking(running.address, hasty, SPECS) as actor:
        running.hold_back()
        threading.Timer(0.3, running.go_on).start()
        expected = actor.q_values(observation)
        assert "does not answer" in caplog.text
        assert "answers again" in caplog.text
        running.hold_back()
        with pytest.raises(
            TimeoutError, match=r"collector-0\.0 has waited 1 s for actions: the acting server at .* does"
        ):
            actor.q_values(observation)
        running.go_on()
        (
            np.testing.assert_array_equal(actor.q_values(observation), expected),
            "the late answer is not taken for this one",
        )
        running.stop()
        with pytest.raises(TimeoutError, match="is not there"):
            actor.q_values(observation)


def test_a_collector_leaves_a_server_that_does_not_answer_as_the_run_ends(
    experiment: Any, published: Variables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(central_actor, "_TICK_SECONDS", 0.02)
    monkeypatch.setattr(central_actor, "_LAST_SECONDS", 0.1)
    goes_on = [True]
    with (
        serving(experiment, SPECS, published) as running,
        asking(running.address, experiment, SPECS, keep_waiting=lambda: goes_on[0]) as actor,
    ):
        goes_on[0] = False
        actor.q_values(observe(np.random.default_rng(0)))  # one that does answer is taken at its word
        running.hold_back()
        with pytest.raises(Unanswered):
            actor.q_values(observe(np.random.default_rng(0)))
        running.go_on()


def test_collectors_of_other_experiments_are_refused(experiment: Any, published: Variables) -> None:
    with serving(experiment, SPECS, published) as running:
        more_lanes = parse("", (*CENTRAL, *KINDS["dqn"], "collect.lanes=8"))
        with pytest.raises(UsageError, match="answers 4 lanes, not 8"), asking(running.address, more_lanes, SPECS):
            pass
        other = parse("", (*CENTRAL, *KINDS["dqn"], "agent.discount=0.5"))
        with pytest.raises(UsageError, match=r"agent\.discount=0\.5"), asking(running.address, other, SPECS):
            pass
        wait_until(lambda: not running.server._clients, "they have left")


@given(
    changed=st.lists(st.integers(0, 4), unique=True),
    has_noise=st.booleans(),
    units=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_requests_and_replies_come_back_as_they_were(
    changed: list[int], has_noise: bool, units: tuple[int, int], seed: int
) -> None:
    random, (state_units, noise_units) = np.random.default_rng(seed), units
    specs = Specs({"bits": ArraySpec((3,), "uint8", (1,)), "count": ArraySpec((), "int32", (9,))}, 2)
    layout = Layout(specs, 5, state_units, noise_units)
    seen = {"bits": random.integers(0, 2, (5, 3), np.uint8), "count": random.integers(0, 9, 5, np.int32)}
    state, noise = random.random((5, state_units), np.float32), random.random((5, noise_units), np.float32)
    buffer = bytearray(layout.request_bytes)
    size = layout.write_request(buffer, seen, noise if has_noise else None, np.array(changed, np.intp), state)
    assert size <= layout.request_bytes
    request = layout.read_request(buffer, size)
    for name, leaf in seen.items():
        np.testing.assert_array_equal(request.observation[name], leaf)
    assert (request.noise is not None) == has_noise
    np.testing.assert_array_equal(request.noise if has_noise else noise, noise)
    np.testing.assert_array_equal(request.lanes, changed)
    np.testing.assert_array_equal(request.states, state[changed])
    for wrong in (size - 1, size + 4):
        with pytest.raises(ValueError, match="a request of"):
            layout.read_request(buffer + bytes(4), wrong)
    scores = random.random((5, 2), np.float32)
    data = layout.write_reply(Reply((1, 2, 2**40), scores, state))
    assert len(data) == layout.reply_bytes
    reply = layout.read_reply(bytearray(data))
    assert reply.version == (1, 2, 2**40)
    np.testing.assert_array_equal(reply.scores, scores)
    np.testing.assert_array_equal(reply.states, state)


def test_a_state_of_a_lane_that_is_not_there_is_refused() -> None:
    layout = Layout(Specs(ArraySpec((1,), "float32"), 2), 2, 1, 0)
    buffer = bytearray(layout.request_bytes)
    state = np.zeros((2, 1), np.float32)
    size = layout.write_request(buffer, {"": state}, None, np.array([0]), state)
    buffer[24:28] = struct.pack("<I", 2)
    with pytest.raises(ValueError, match="a state of lane 2"):
        layout.read_request(buffer, size)


@pytest.mark.parametrize(
    ("inference", "role", "address", "words"),
    [
        ("central", "inference", "", "--inference is missing for --role=inference"),
        ("central", "collector", "", "--inference is missing for --role=collector"),
        ("local", "inference", "unix:/tmp/a", "set collect.inference='central'"),
        ("local", "collector", "unix:/tmp/a", "set collect.inference='central'"),
        ("central", "collector", "10.0.0.1:9000", "at a socket of pipeline.proxy"),
        ("central", "inference", "0.0.0.0:9000", "of its own machine"),
        ("central", "collector", "nonsense", "is not host:port"),
    ],
)
def test_places_that_do_not_go_with_the_config_are_refused(inference: str, role: str, address: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        refuse_place(parse("", (f"collect.inference='{inference}'",)), role, address)


@pytest.mark.parametrize("address", ["127.0.0.1:9000", "[::1]:9000", "localhost:9000", "unix:/tmp/a"])
def test_places_of_this_machine_will_do(experiment: Any, address: str) -> None:
    refuse_place(experiment, "collector", address)
