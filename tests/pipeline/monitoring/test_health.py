"""How a process judges itself, and what it tells systemd, by a real socket."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_until

from pipeline.messages.contents import Counts
from pipeline.monitoring.health import Health, Number, ServiceManager, Watch, absence
from pipeline.records.counters import NOTHING, Seen
from pipeline.records.recorder import Recorder
from pipeline.runtime.signs_of_life import NO_CALL, RESETTING, enter


@pytest.fixture
def process() -> tuple[Health, Recorder]:
    health, recorder = Health("collector-2", 0.3, "collect.stall_seconds"), Recorder(None)
    health.follow(recorder)
    return health, recorder


@contextlib.contextmanager
def looked_at(health: Health, manager: ServiceManager | None = None) -> Iterator[Watch]:
    watch = Watch(health, manager)
    try:
        yield watch
    finally:
        watch.close()


def test_a_process_is_ready_once_it_is_at_work_and_no_more_when_it_leaves(process: tuple[Health, Recorder]) -> None:
    health, recorder = process
    health.look()
    assert "collector-2 starts" in health.obstacle
    assert not health.fault, "it has minutes for that"
    recorder.beat()
    health.look()
    assert health.obstacle == health.fault == ""
    health.vitals.obstacle = lambda: "the replay is away"
    assert health.obstacle == "the replay is away"
    health.vitals.obstacle = str
    recorder.leave()
    assert health.obstacle == "collector-2 leaves"


def test_a_process_that_hangs_says_where_and_by_which_setting_until_it_goes_on(
    process: tuple[Health, Recorder],
) -> None:
    health, recorder = process
    recorder.show_calls()
    enter(RESETTING)[1] = 3
    recorder.beat()
    with looked_at(health):
        wait_until(lambda: bool(health.fault), "it hangs")
        assert "collector-2 has given no sign of life for" in health.fault
        assert "in a reset of its environment, lane 3: collect.stall_seconds=0.3 allows no more" in health.fault
        assert health.obstacle == health.fault
        values = {number.tag: number.value for number in health.numbers()}
        assert (values["health/alive"], values["health/ready"]) == (0.0, 0.0)
        assert values["health/last_sign_seconds"] > 0.3
        enter(NO_CALL)
        recorder.beat()
        wait_until(lambda: not health.fault, "it goes on")


def test_steps_of_any_kind_count_as_steps_and_waiting_does_not(process: tuple[Health, Recorder]) -> None:
    health, recorder = process

    def age() -> float:
        health.look()
        return next(number.value for number in health.numbers() if number.tag == "health/last_step_seconds")

    time.sleep(0.1)
    recorder.beat()
    assert age() >= 0.1
    for step in (lambda: recorder.advance(1), lambda: recorder.record(Counts(environment_steps=8))):
        before = age()
        step()
        assert age() < before


def test_a_process_shows_its_numbers_beside_its_health(process: tuple[Health, Recorder]) -> None:
    health, _ = process
    health.vitals.numbers = lambda: [Number("replay/size", 7.0)]
    assert health.numbers()[-1] == Number("replay/size", 7.0)


def test_what_cannot_be_shown_hides_no_health(process: tuple[Health, Recorder]) -> None:
    health, recorder = process
    recorder.beat()
    health.look()

    def fail() -> list[Number]:
        raise OSError("the server does not answer")

    for numbers, shows in ((fail, 0.0), (list, 0.0), (lambda: [Number("replay/size", 1.0)], 1.0)):
        health.vitals.numbers = numbers
        values = {number.tag: number.value for number in health.numbers()}
        assert (values["health/alive"], values["health/shows_work"]) == (1.0, shows)


def test_servers_that_do_not_answer_are_named() -> None:
    now = time.monotonic()
    servers = [Seen(None, NOTHING, {}, at) for at in (now, now - 60.0)]  # type: ignore[arg-type]
    assert absence(servers) == "replay-1 has not answered for 60 s"
    assert absence(servers[:1]) == ""


class Systemd:
    """The socket of a service manager, and what it was told."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.words: list[str] = []

    def heard(self, word: str) -> int:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.words += self._socket.recv(4096).decode().splitlines()
        return self.words.count(word)

    def everything(self) -> str:
        self.heard("")
        return "\n".join(self.words)

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_hears_that_a_process_is_ready_and_alive_and_no_more_when_it_hangs(
    kind: str, tmp_path: Path, process: tuple[Health, Recorder]
) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@reverb-dqn-{os.getpid()}"
    systemd, (health, recorder) = Systemd(address), process
    variables = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "600000", "WATCHDOG_PID": str(os.getpid())}
    manager = ServiceManager.of(variables)
    assert manager is not None
    assert manager.every_seconds == pytest.approx(0.2)
    try:
        with looked_at(health, manager):
            wait_until(lambda: systemd.heard("WATCHDOG=1") > 0, "it has said that it is alive")
            assert not systemd.heard("READY=1"), "it is not yet"
            recorder.beat()
            wait_until(lambda: systemd.heard("READY=1") == 1, "it is ready")
            wait_until(lambda: bool(health.fault), "it hangs")
            wait_until(lambda: "STATUS=collector-2 has given no sign of life" in systemd.everything(), "it says so")
            alive = systemd.heard("WATCHDOG=1")
            time.sleep(0.7)
            assert systemd.heard("WATCHDOG=1") == alive, "whoever hangs is not alive"
            recorder.beat()
            wait_until(lambda: systemd.heard("WATCHDOG=1") > alive, "it is alive again")
        assert not systemd.heard("STOPPING=1"), "a learner that has lost another one begins anew as the same process"
        assert systemd.heard("READY=1") == 1
    finally:
        systemd.close()


def test_a_process_that_systemd_did_not_ask_tells_it_nothing() -> None:
    assert ServiceManager.of({}) is None
    variables = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "600000"}
    for more, every in (({"WATCHDOG_PID": "1"}, 0.0), ({}, 0.2), ({"WATCHDOG_USEC": "soon"}, 0.0)):
        manager = ServiceManager.of(variables | more)
        assert manager is not None
        assert manager.every_seconds == pytest.approx(every)
        assert not manager.say(READY="1"), "nobody is there, and that ends nothing"
        manager.close()
