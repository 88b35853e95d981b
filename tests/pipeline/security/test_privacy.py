"""Who reaches a replay: real servers, tried from this machine, as another of its users, and from a second machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import outsiders
import psutil
import pytest
from outsiders import AS_NOBODY, CONNECT, NOBODY, SecondHost, attempt, can, unprivileged
from waiting import SECONDS

from agents import Specs
from pipeline.experiment.config import UsageError, parse
from pipeline.messages.ports import free_port
from pipeline.replay.embedded import EmbeddedReplay
from pipeline.runtime import native
from pipeline.security import loopback, privacy
from pipeline.security.network_namespace import Namespace

ROOT = Path(__file__).resolve().parents[3]
REFUSED = "ConnectionRefusedError: [Errno 111] Connection refused"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user or add a network")
needs_namespaces = pytest.mark.skipif(
    not can(*unprivileged("unshare", "--user", "--net", "true")), reason="this kernel lets no user make namespaces"
)


@pytest.fixture
def port_of(serve: Callable[..., EmbeddedReplay], make_experiment: Any, counting_specs: Specs) -> Callable[[str], int]:
    """The port of a replay that is served in this process with a value of `replay.private`."""
    return lambda private: int(
        serve(make_experiment(f"replay.private={private!r}"), counting_specs).address.partition(":")[2]
    )


@pytest.fixture
def second_host() -> Iterator[SecondHost]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a second machine is made by root with iproute2")
    with outsiders.second_host() as host:
        yield host


def run(command: list[str], timeout: float = SECONDS, **options: Any) -> Any:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}",
        **options.pop("env", {}),
    }
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=ROOT, check=False, **options
    )


def server_at(port: int) -> Any:
    """A Reverb server without tables."""
    return native.reverb_bindings().Server([], port, None)


# The loopback address.


@pytest.mark.parametrize("private", ["auto", "loopback", "namespace"])
def test_a_replay_listens_on_the_loopback_address_alone(port_of: Callable[[str], int], private: str) -> None:
    import reverb

    port = port_of(private)
    assert loopback.listeners(port) == ["127.0.0.1"]
    for host in ("localhost", "127.0.0.1"):
        assert reverb.Client(f"{host}:{port}").server_info(timeout=20)


def test_off_listens_on_every_address(port_of: Callable[[str], int]) -> None:
    assert loopback.listeners(port_of("off")) == ["::"]


def test_other_servers_of_the_process_stay_as_they_are(port_of: Callable[[str], int]) -> None:
    kept, during, after = free_port(), free_port(), free_port()
    with loopback.bound(kept):
        servers = [server_at(during), server_at(kept)]
    servers.append(server_at(after))
    assert [loopback.listeners(port) for port in (kept, during, after)] == [["127.0.0.1"], ["::"], ["::"]]
    for server in servers:
        server.Stop()
    assert loopback.listeners(kept) == []


def test_a_failed_start_leaves_the_library_as_it_was() -> None:
    with pytest.raises(ZeroDivisionError), loopback.bound(free_port()):
        raise ZeroDivisionError
    port = free_port()
    server = server_at(port)
    assert loopback.listeners(port) == ["::"]
    server.Stop()


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is what this is held against")
def test_table_entries_are_those_that_readelf_finds() -> None:
    import reverb.libpybind

    library = Path(reverb.libpybind.__file__)
    lines = run(["readelf", "--relocs", "--wide", str(library)]).stdout.splitlines()
    for symbol in ("bind", "listen", "getsockname", "stderr", "no_such_symbol"):
        kinds = ("R_X86_64_JUMP_SLO", "R_X86_64_GLOB_DAT")
        fields = [line.split() for line in lines if any(kind in line for kind in kinds)]
        expected = [int(offset, 16) for offset, _, _, _, name, *_ in fields if name.partition("@")[0] == symbol]
        assert sorted(loopback.table_entries(library, symbol)) == sorted(expected)
        assert bool(expected) == (symbol != "no_such_symbol")


@pytest.mark.parametrize("content", [b"", b"no library", b"\x7fELF" + bytes(100), b"\x7fELF" + b"\xff" * 200])
def test_what_is_no_library_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "library.so").write_bytes(content)
    with pytest.raises(loopback.LoopbackError, match=r"library\.so"):
        loopback.table_entries(tmp_path / "library.so", "bind")


WITHOUT_IPV6 = """
import sys
from pipeline.security import loopback
from pipeline.runtime import native
from pipeline.messages.ports import free_port, refuse_used_port

if sys.argv[1] == "loopback":
    print(loopback.attempt() or "kept")
else:
    port = free_port()
    server = native.reverb_bindings().Server([], port, None)
    print(loopback.listeners(port))
"""


@pytest.mark.parametrize(("private", "expected"), [("loopback", "kept"), ("off", "['0.0.0.0']")])
def test_on_a_machine_without_ipv6(private: str, expected: str) -> None:
    turn_off = "ip link set lo up; echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"
    prefix = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", f'set -e; {turn_off}; exec "$@"', "sh"]
    if not can(*prefix, "true"):
        pytest.skip("needs user namespaces, iproute2 and IPv6 to turn off")
    result = run([*prefix, sys.executable, "-c", WITHOUT_IPV6, private])
    assert result.stdout.strip() == expected, result.stderr


def test_a_library_that_cannot_be_led_is_no_crash(tmp_path: Path) -> None:
    outsiders.library_without_entry(tmp_path)
    code = """
    from pathlib import Path
    from agents import ArraySpec, Specs
    import logging, sys
    from pipeline.security import loopback
    from pipeline.experiment.config import UsageError, parse
    from pipeline.messages.ports import free_port
    from pipeline.replay.embedded import EmbeddedReplay

    logging.basicConfig(stream=sys.stdout)
    print(loopback.obstacle())
    for private in ("auto", "loopback"):
        try:
            port = free_port()
            server = EmbeddedReplay(parse(f"replay.private={private!r}"), Specs(ArraySpec((4,), "float32"), 3), port,
                                  Path(sys.argv[1]) / private)
            print(private, loopback.listeners(port))
        except UsageError as error:
            print(private, "refused:", error)
    """
    import textwrap

    path = os.pathsep.join(map(str, (tmp_path, ROOT)))
    result = run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], env={"PYTHONPATH": path})
    lines = result.stdout.splitlines()
    assert "does not call bind through its global offset table" in lines[0], result.stderr
    assert any(
        line.startswith("WARNING:") and line.endswith(": OPEN to whoever reaches this machine") for line in lines
    )
    assert "auto ['::']" in lines
    assert lines[-1].startswith("loopback refused: replay.private='loopback', but the replay listens on ::")


def test_an_impostor_on_the_other_loopback_address_gets_nothing(
    serve: Callable[..., EmbeddedReplay], make_experiment: Any, counting_specs: Specs
) -> None:
    server = serve(make_experiment(), counting_specs)
    port = int(server.address.partition(":")[2])
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as impostor:
        impostor.bind(("::1", port))
        impostor.listen()
        impostor.settimeout(0.5)
        assert native.reverb_client(server.address).ServerInfo(20)
        with pytest.raises(TimeoutError):
            impostor.accept()


# The kernel's word.


def test_listeners_are_those_of_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as second:
        port = first.getsockname()[1]
        second.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        second.bind(("::1", port))
        assert loopback.listeners(port) == ["127.0.0.1"], "a socket that does not listen yet is none"
        second.listen()
        assert loopback.listeners(port) == ["127.0.0.1", "::1"]
    assert loopback.listeners(port) == []


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("::", False), ("0.0.0.0", False), ("10.0.0.1", False)],
)
def test_loopback_addresses(address: str, expected: bool) -> None:
    assert loopback.is_loopback(address) == expected


# A second machine.


@pytest.mark.parametrize(("private", "expected"), [("off", "in"), ("loopback", REFUSED)])
def test_a_second_machine(port_of: Callable[[str], int], second_host: SecondHost, private: str, expected: str) -> None:
    port = port_of(private)
    assert attempt("127.0.0.1", port) == "in"
    assert second_host.attempt(port) == expected


# The namespace.

SERVE = """
import sys, time
from pipeline.runtime import native
from pipeline.messages.ports import free_port
from pipeline.runtime.process import die_with_parent

die_with_parent(int(sys.argv[1]))
port = free_port()
server = native.reverb_bindings().Server([], port, None)
print(port, flush=True)
time.sleep(300)
"""


@pytest.fixture
def isolated() -> Iterator[tuple[Namespace, int, int]]:
    """A namespace in which a Reverb server listens on every address: its port and process id."""
    try:
        namespace = Namespace()
    except OSError as error:
        pytest.skip(f"no namespaces here: {error}")
    process = subprocess.Popen(
        namespace.command([sys.executable, "-c", SERVE, str(os.getpid())]),
        pass_fds=namespace.descriptors,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield namespace, int(process.stdout.readline()), process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        namespace.close()


def test_a_namespace_is_reached_from_within_alone(isolated: tuple[Namespace, int, int]) -> None:
    namespace, port, _ = isolated
    assert loopback.listeners(port) == []
    for host in ("127.0.0.1", "::1"):
        command = namespace.command([sys.executable, "-I", "-S", "-c", CONNECT, host, str(port)])
        result = subprocess.run(command, pass_fds=namespace.descriptors, capture_output=True, text=True, check=False)
        assert result.stdout.strip() == "in", result.stderr
        assert attempt(host, port) == REFUSED


@needs_root
def test_another_user_reaches_the_loopback_address_but_no_namespace(
    isolated: tuple[Namespace, int, int], port_of: Callable[[str], int]
) -> None:
    _, port, pid = isolated
    assert attempt("127.0.0.1", port_of("loopback"), before=AS_NOBODY) == "in", "so the message says"
    assert attempt("127.0.0.1", port, before=AS_NOBODY) == REFUSED
    enter = f"{AS_NOBODY} file = os.open('/proc/{pid}/ns/net', os.O_RDONLY)"
    result = subprocess.run([sys.executable, "-I", "-S", "-c", enter], capture_output=True, text=True, check=False)
    assert "PermissionError" in result.stderr


def test_a_second_machine_reaches_no_namespace(isolated: tuple[Namespace, int, int], second_host: SecondHost) -> None:
    assert second_host.attempt(isolated[1]) == REFUSED


INSIDE = """
import json, os, signal, sys, threading
import psutil
from pipeline.runtime.process import die_with_parent, interruption

parent = int(sys.argv[1])
interrupted = interruption()
die_with_parent(parent)
with open(sys.argv[2], "w") as file:
    file.write("x")
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "user": os.getuid(), "group": os.getgid(), "owner": os.stat(sys.argv[2]).st_uid,
    "capabilities": int(status["CapEff"], 16), "rss": psutil.Process(parent).memory_info().rss,
    "parent": psutil.Process().ppid(), "network": os.readlink("/proc/self/ns/net"),
    "cuda": os.environ["CUDA_VISIBLE_DEVICES"], "descriptors": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
    "interfaces": [name for name, state in psutil.net_if_stats().items() if state.isup],
}), flush=True)
print(interrupted.wait(60), flush=True)
signal.pause()
"""
OUTSIDE = """
import json, os, subprocess, sys
from pipeline.security.network_namespace import Namespace

before = os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/user"), len(os.listdir("/proc/self/fd"))
namespace = Namespace()
process = subprocess.Popen(
    namespace.command([sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]]),
    pass_fds=namespace.descriptors, stdout=subprocess.PIPE, text=True,
    env={**os.environ, "CUDA_VISIBLE_DEVICES": "3"},
)
inside = json.loads(process.stdout.readline())
process.terminate()
inside["interrupted"] = process.stdout.readline().strip()
process.stdout.close()
namespace.close()
after = os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/user"), len(os.listdir("/proc/self/fd"))
print(json.dumps({**inside, "outside": [os.getpid(), os.getuid(), os.getgid()], "stays": before == after,
                  "before": before, "process": process.pid}), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder_of_nobody(tmp_path: Path) -> Iterator[Path]:
    """A folder that an unprivileged user may write."""
    if os.geteuid() != 0:
        yield tmp_path
        return
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="unprivileged-", dir="/tmp"))  # pytest's own are root's alone
    os.chown(folder, NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


@needs_namespaces
def test_an_unprivileged_process_in_a_namespace_is_as_outside(folder_of_nobody: Path) -> None:
    written = folder_of_nobody / "written"
    process = subprocess.Popen(
        unprivileged(sys.executable, "-c", OUTSIDE, INSIDE, str(written)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    found = json.loads(process.stdout.readline())
    pid, user, group = found["outside"]
    assert user != 0
    assert (found["user"], found["group"], found["owner"]) == (user, group, user)
    assert written.stat().st_uid == user
    assert found["capabilities"] == 0, "what entering gave is given up"
    assert found["rss"] > 0, "a process in it can look at its parent's memory"
    assert found["parent"] == pid
    assert found["interrupted"] == "True", "a signal from outside arrives"
    assert found["cuda"] == "3"
    assert found["descriptors"] == [0, 1, 2], "it cannot hand the namespace on"
    assert found["interfaces"] == ["lo"]
    assert found["stays"], "the caller has not entered, and nothing is left open"
    assert found["network"] != found["before"][0]
    inside = psutil.Process(found["process"])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert inside.wait(30) is None or not inside.is_running(), "it dies with its parent, who has died outside"


@needs_namespaces
def test_a_program_with_threads_can_make_one() -> None:
    code = """
    import os, threading
    import numpy
    from pipeline.security.network_namespace import Namespace

    threads = [threading.Thread(target=threading.Event().wait, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    namespace = Namespace()
    print(len(namespace.descriptors), flush=True)
    os._exit(0)
    """
    import textwrap

    result = run(unprivileged(sys.executable, "-c", textwrap.dedent(code)))
    assert result.stdout.strip() == "2", result.stderr


# What a run takes, and what it says.


@pytest.fixture
def limited() -> list[str]:
    """Starts a command where the kernel grants no more namespaces."""
    limits = "".join(f"echo 0 > /proc/sys/user/max_{kind}_namespaces; " for kind in ("user", "net"))
    prefix = ["unshare", "--user", "--map-root-user", "sh", "-c", f'set -e; {limits} exec "$@"', "sh"]
    if not can(*prefix, "true"):
        pytest.skip("the limits are set in a user namespace, which cannot be made here")
    return prefix


ARRANGE = """
import sys
from pipeline.experiment.config import UsageError, parse
from pipeline.security.privacy import arranged

private, required = sys.argv[1], sys.argv[2] == "required"
try:
    with arranged(parse(f"replay.private={private!r}"), True, required) as (experiment, privacy):
        print(privacy.measure, experiment.replay.private)
        print(privacy.sentence(5000))
except UsageError as error:
    print("refused:", error)
"""
NO_NAMESPACE = "No space left on device"
NO_ENTRY = "does not call bind through its global offset table"


@pytest.mark.parametrize(
    ("private", "required", "bound", "first", "words"),
    [
        ("auto", "", True, "loopback auto", ("127.0.0.1:5000 alone", "other users", NO_NAMESPACE)),
        ("auto", "required", True, "loopback loopback", ("127.0.0.1:5000 alone",)),
        ("auto", "", False, "open auto", ("OPEN", "port 5000", "firewall", NO_NAMESPACE, NO_ENTRY)),
        ("auto", "required", False, "refused: --require_private", (NO_NAMESPACE, NO_ENTRY, "firewall")),
        ("namespace", "", True, "refused: replay.private='namespace'", (NO_NAMESPACE, "'auto'")),
        ("loopback", "", True, "loopback loopback", ("replay.private='loopback'",)),
        ("loopback", "", False, "refused: replay.private='loopback'", (NO_ENTRY, "'auto'")),
        ("off", "", True, "open off", ("OPEN", "replay.private='off'", "firewall")),
        ("off", "required", True, "refused: --require_private contradicts replay.private='off'", ()),
    ],
)
def test_what_a_run_takes_where_namespaces_have_run_out(
    limited: list[str], tmp_path: Path, private: str, required: str, bound: bool, first: str, words: tuple[str, ...]
) -> None:
    path = str(ROOT)
    if not bound:
        outsiders.library_without_entry(tmp_path)
        path = f"{tmp_path}{os.pathsep}{ROOT}"
    result = run([*limited, sys.executable, "-c", ARRANGE, private, required], env={"PYTHONPATH": path})
    assert result.stdout.startswith(first), result.stdout + result.stderr
    for word in words:
        assert word in result.stdout


@needs_namespaces
@pytest.mark.parametrize("private", ["auto", "namespace"])
@pytest.mark.parametrize("required", [False, True])
def test_a_namespace_is_preferred(private: str, required: bool) -> None:
    with privacy.arranged(parse(f"replay.private={private!r}"), True, required) as (experiment, taken):
        assert taken.measure == "namespace"
        assert "nothing outside reaches" in taken.sentence(5000)
        assert experiment.replay.private == ("namespace" if required else private)
        descriptors = taken.descriptors
        assert descriptors
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_roles_of_the_callers_own_process_get_no_namespace() -> None:
    with privacy.arranged(parse(""), False, False) as (experiment, taken):
        assert (taken.measure, experiment.replay.private) == ("loopback", "auto")
        assert taken.command(["a", "b"]) == ["a", "b"]
        assert taken.descriptors == ()
    with (
        pytest.raises(UsageError, match="this launcher"),
        privacy.arranged(parse("replay.private='namespace'"), False, False),
    ):
        pass


def test_a_replay_that_roles_elsewhere_reach_is_open() -> None:
    with privacy.arranged(parse(""), False, False, "roles are elsewhere") as (experiment, taken):
        assert (taken.measure, experiment.replay.private) == ("open", "off")
        assert "OPEN" in taken.sentence(5000)
        assert "roles are elsewhere" in taken.sentence(5000)


@pytest.mark.parametrize(
    ("private", "required"), [("auto", True), ("off", True), ("loopback", False), ("namespace", False)]
)
def test_what_keeps_others_out_is_refused_where_roles_are_elsewhere(private: str, required: bool) -> None:
    with (
        pytest.raises(UsageError, match="elsewhere" if private != "off" else "contradicts"),
        privacy.arranged(parse(f"replay.private={private!r}"), True, required, "roles are elsewhere"),
    ):
        pass


def test_processes_that_start_without_their_parent_end(isolated: tuple[Namespace, int, int]) -> None:
    namespace, _, _ = isolated
    code = "from pipeline.runtime.process import die_with_parent; die_with_parent(1_000_000_000); print('lives')"
    result = run(namespace.command([sys.executable, "-c", code]), pass_fds=namespace.descriptors)
    assert (result.returncode, result.stdout) == (-signal.SIGKILL, "")
