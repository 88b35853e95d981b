"""Pages that a process serves: over a port and a socket of the file system, with clients of all sorts."""

import contextlib
import http.client
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.experiment.config import UsageError
from pipeline.messages import listening, pages
from pipeline.messages.pages import Page, Pages, fetched

SECONDS = 30.0


@contextlib.contextmanager
def served(at: socket.socket, **shown: Callable[[], Page]) -> Iterator[Pages]:
    found = Pages(at, {f"/{name}": make for name, make in shown.items()})
    try:
        yield found
    finally:
        found.close()


def asked(where: Pages, path: str, method: str = "GET") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(where.address, timeout=SECONDS)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read().decode()
    finally:
        connection.close()


def bad() -> Page:
    raise OSError("no numbers today")


def test_a_port_answers_with_what_the_pages_say() -> None:
    shown = {"good": lambda: Page("fine\n"), "ill": lambda: Page("it hangs\n", 503, "text/odd"), "bad": bad}
    with served(listening.at("127.0.0.1:0", "--metrics"), **shown) as where:
        assert asked(where, "/good") == (200, "text/plain; charset=utf-8", "fine\n")
        assert asked(where, "/ill") == (503, "text/odd", "it hangs\n")
        assert asked(where, "/bad")[::2] == (500, "OSError: no numbers today\n")
        assert asked(where, "/none")[0] == 404
        assert asked(where, "/good", "POST")[0] == 405


def test_a_socket_is_its_users_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "its" / "role.sock"
    with served(listening.at(f"unix:{path}", "--metrics"), good=lambda: Page("fine\n"), bad=bad) as where:
        assert where.address == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert fetched(path, "/good") == "fine\n"
        assert fetched(path, "/bad") == fetched(path, "/none") == ""
    assert not path.exists()
    assert fetched(path, "/good") == ""


def test_a_socket_that_a_killed_process_left_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = tmp_path / "role.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with served(listening.at(f"unix:{path}", "--metrics"), good=lambda: Page("fine\n")):
        with pytest.raises(UsageError, match="is in use by another process"):
            listening.at(f"unix:{path}", "--metrics")
        assert fetched(path, "/good") == "fine\n"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("here", "--metrics=here is neither host:port"),
        ("127.0.0.1:65536", "is neither host:port"),
        ("203.0.113.1:9464", "cannot listen on 203.0.113.1:9464"),
        ("unix:/" + "x" * 200, "too long for a socket"),
        ("unix:/dev/null/at/all", "cannot listen on /dev/null/at/all"),
        ("unix:", "--metrics=unix: is neither host:port"),
        (":9464", "--metrics=:9464 is neither host:port"),
        ("unix:/tmp", "--metrics=unix:/tmp: /tmp is there already, and is no socket"),
    ],
)
def test_what_cannot_be_listened_on_is_refused(address: str, words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        listening.at(address, "--metrics")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_port_that_is_taken_is_refused_by_its_number() -> None:
    with listening.at("127.0.0.1:0", "--metrics") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is in use"):
            listening.at(f"127.0.0.1:{port}", "--metrics")


def test_a_page_is_made_once_for_all_who_ask_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_FRESH_SECONDS", 1e9)
    made: list[int] = []

    def make() -> Page:
        made.append(len(made))
        return Page(f"{made[-1]}")

    answers: list[str] = []
    with served(listening.at("127.0.0.1:0", "--metrics"), page=make) as where:
        askers = [threading.Thread(target=lambda: answers.append(asked(where, "/page")[2])) for _ in range(20)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(SECONDS)
    assert answers == ["0"] * 20


def test_clients_who_hold_connections_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_MOST_CONNECTIONS", 8)
    with (
        served(listening.at("127.0.0.1:0", "--metrics"), good=lambda: Page("fine\n")) as where,
        contextlib.ExitStack() as stack,
    ):
        host, _, port = where.address.rpartition(":")
        for _ in range(40):
            held = stack.enter_context(socket.create_connection((host, int(port)), SECONDS))
            held.sendall(b"GET /good HTTP/1.1\r\nHost: x")  # and no more
        assert asked(where, "/good")[0] == 200
