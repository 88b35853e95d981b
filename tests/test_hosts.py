"""The layout of several hosts: who reaches whom, and what a cut, a limit and a machine that goes down do."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, hosts, needs_hosts
from outsiders import attempt, can, unprivileged

from benchmarks.reliability.hosts import Machine

pytestmark = needs_hosts

PORT = 9000
REFUSED = "ConnectionRefusedError: [Errno 111] Connection refused"
ECHO = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server:
    print(socket.gethostname(), flush=True)
    link, _ = server.accept()
    while data := link.recv(65536):
        link.sendall(data)
"""
ASK = """
import socket, sys, time
link = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
for line in sys.stdin:
    seconds, _, question = line.partition(" ")
    deadline = time.monotonic() + float(seconds)
    answer = ""
    try:
        link.sendall(question.encode())
        while not answer.endswith(question):
            link.settimeout(max(0.001, deadline - time.monotonic()))
            answer += link.recv(65536).decode() or "nothing more" + question
        print(answer.replace("\\n", ""), flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


def python(host: Host, code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]
    return host.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def echo(host: Host) -> str:
    """Starts a server there; its host's name."""
    return read(python(host, ECHO, PORT))


def read(process: Any) -> str:
    line: str = process.stdout.readline()
    return line.strip()


def ask(client: Any, question: str, seconds: float) -> str:
    """What the server echoes within that time, with what it owes from before; or the error's name."""
    client.stdin.write(f"{seconds} {question}\n")
    client.stdin.flush()
    return read(client)


def connect(host: Host, server: Host) -> Any:
    return python(host, ASK, server.name, PORT)


def test_hosts_reach_each_other_by_name_and_by_address_alone() -> None:
    with hosts("replay", "collectors") as network, hosts("replay", "others") as elsewhere:
        replay, collectors = network.values()
        assert echo(replay) == "replay"
        assert ask(connect(collectors, replay), "hello", 30) == "hello"
        assert attempt(replay.address, PORT, *collectors.prefix) == "in"
        assert attempt("localhost", PORT, *collectors.prefix) == REFUSED
        assert attempt("replay", PORT, *elsewhere["others"].prefix) == REFUSED
        addresses = subprocess.run(["ip", "address"], capture_output=True, text=True, check=True).stdout
        assert replay.address not in addresses, "this machine is none of them"


def test_what_is_sent_over_a_cut_link_arrives_when_it_is_restored() -> None:
    with hosts("a", "b", "c") as network:
        echo(network["a"])
        client = connect(network["b"], network["a"])
        assert ask(client, "one", 30) == "one"
        network["a"].cut()
        assert ask(client, "two", 1) == "TimeoutError"
        echo(network["c"])
        assert ask(connect(network["b"], network["c"]), "others", 30) == "others"
        network["a"].restore()
        assert ask(client, "three", 60) == "twothree"


def test_a_limit_holds_what_passes_to_its_rate() -> None:
    question, took = "x" * 400_000, []
    with hosts("a", "b") as network:
        echo(network["a"])
        client = connect(network["b"], network["a"])
        for rate in (400_000, None):
            network["b"].limit(rate)
            started = time.monotonic()
            assert ask(client, question, 60) == question
            took.append(time.monotonic() - started)
    limited, free = took
    assert limited > max(0.9, free)


def test_a_machine_that_goes_down_tells_nobody_and_has_forgotten_all_when_it_is_back() -> None:
    spawn = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:], start_new_session=True); time.sleep(600)"
    with hosts("a", "b") as network:
        echo(network["a"])
        client = connect(network["b"], network["a"])
        assert ask(client, "one", 30) == "one"
        print_pid = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
        parent = python(network["a"], spawn, "unshare", "--net", sys.executable, "-I", "-S", "-c", print_pid)
        child = int(read(parent))
        assert is_alive(child)
        network["a"].kill()
        assert parent.poll() == -9
        assert not is_alive(child), "in a session and a network of its own"
        assert client.poll() is None
        assert ask(client, "two", 1) == "TimeoutError"
        network["a"].restore()
        assert ask(client, "three", 60) == "ConnectionResetError"
        assert echo(network["a"]) == "a"
        assert ask(connect(network["b"], network["a"]), "four", 60) == "four"


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_nothing_is_left_after_a_failure() -> None:
    before = spaces()
    processes: list[subprocess.Popen[str]] = []

    def fail() -> None:
        with hosts("a", "b") as network:
            processes.extend(python(host, "import time; time.sleep(600)") for host in network.values())
            assert len(spaces()) == len(before) + 3
            network["a"].cut()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [process.poll() for process in processes] == [-9, -9]
    assert spaces() == before


def test_a_machine_whose_processes_are_gone_ends_without_those_of_the_next_one() -> None:
    machine = Machine("a")
    machine.holder.kill()
    machine.holder.wait()
    others = [Machine(name) for name in ("b", "c")]
    machine.end()
    assert [other.holder.poll() for other in others] == [None, None]
    for other in others:
        other.end()


def spaces() -> set[int]:
    """The networks of processes whose parent this one is."""
    found = subprocess.run(["ps", "-o", "netns=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return {int(line) for line in found.stdout.split() if line.isdecimal()}


@pytest.mark.skipif(
    os.geteuid() != 0 or not can(*unprivileged("unshare", "--user", "--net", "true")),
    reason="root tries it as another user, whom this kernel has to let make namespaces",
)
def test_other_users_can_have_hosts_too() -> None:
    code = """
import sys
from hosts import hosts
from outsiders import attempt
with hosts("a", "b") as network:
    server = "import socket, time; server = socket.create_server(('', 9000)); time.sleep(600)"
    network["a"].start([sys.executable, "-I", "-S", "-c", server])
    while attempt("localhost", 9000, *network["a"].prefix) != "in":
        pass
    print(attempt("a", 9000, *network["b"].prefix))
    network["a"].limit(1e6)
    network["a"].kill()
    network["a"].restore()
    print(attempt("a", 9000, *network["b"].prefix))
"""
    command = unprivileged(sys.executable, "-c", code)
    tests = Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests / 'support'}"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.stdout.splitlines() == ["in", REFUSED], result.stderr
