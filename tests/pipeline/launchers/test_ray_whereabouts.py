"""Whether a role on a Ray cluster is gone: with its node, with its actor, or only silent."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install .[ray]")

from pipeline.launchers.ray_role import News
from pipeline.launchers.ray_whereabouts import Role

HOME, AWAY = "a" * 56, "b" * 56


@pytest.fixture
def door() -> Iterator[socket.socket]:
    """Where a node of the cluster would answer."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield door


def nodes(door: socket.socket, *names: str) -> dict[str, dict[str, Any]]:
    address, port = door.getsockname()
    return {name: {"NodeManagerAddress": address, "NodeManagerPort": port} for name in names}


def role(node: str, pid: int = 0, name: str = "collector-1") -> Role:
    found = Role(name, None)
    found.hear(News("actor", pid or os.getpid(), node, "host", "", ()))
    return found


def test_a_role_that_sends_news_is_not_gone(door: socket.socket) -> None:
    known = nodes(door, HOME, AWAY)
    assert role(AWAY).loss(known, HOME, is_last=False) == ""
    assert role(HOME).loss(known, HOME, is_last=True) == ""
    door.close()
    assert role(AWAY).loss(known, HOME, is_last=False) == "", "nobody has a reason to look"


def test_a_node_that_ray_has_missed_takes_its_roles_with_it(door: socket.socket) -> None:
    assert role(AWAY).loss(nodes(door, HOME), HOME, is_last=False) == "is gone with host (node bbbbbb)"


@pytest.mark.parametrize("reason", ["the last question failed", "no news", "the run ends"])
def test_a_node_that_ray_has_not_missed_yet_is_looked_for(door: socket.socket, reason: str) -> None:
    found, known, is_last = role(AWAY), nodes(door, HOME, AWAY), reason == "the run ends"
    found.is_failing = reason == "the last question failed"
    if reason == "no news":
        found.heard_at = time.monotonic() - 4.0
    assert found.loss(known, HOME, is_last) == ""
    door.close()
    assert found.loss(known, HOME, is_last) == "is gone with host (node bbbbbb)"


def test_the_loss_of_a_replays_server_is_left_to_ray_to_decide(door: socket.socket) -> None:
    found, known = role(AWAY, name="replay-0"), nodes(door, HOME, AWAY)
    found.is_failing = True
    door.close()
    assert found.loss(known, HOME, is_last=False) == ""
    del known[AWAY]
    assert found.loss(known, HOME, is_last=False) == "is gone with host (node bbbbbb)"


def test_an_actor_of_this_machine_that_has_ended_is_gone_though_its_node_is_there(door: socket.socket) -> None:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    found, known = role(HOME, process.pid), nodes(door, HOME)
    found.is_failing = True
    assert found.loss(known, HOME, is_last=False) == ""
    process.kill()
    process.wait()
    assert found.loss(known, HOME, is_last=False) == "was lost with its actor on host (node aaaaaa)"


def test_long_silence_is_said_once_and_again_after_news(door: socket.socket) -> None:
    found = role(AWAY)
    assert found.silence() == ""
    for _ in range(2):
        found.heard_at = time.monotonic() - 20.0
        assert found.loss(nodes(door, HOME, AWAY), HOME, is_last=False) == ""
        assert re.fullmatch(
            r"collector-1, last on host \(node bbbbbb\), has not been heard of for \d+ s", found.silence()
        )
        assert found.silence() == ""
        assert found.news is not None
        found.hear(found.news)
