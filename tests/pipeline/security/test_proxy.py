"""Mutual TLS by haproxy, with real servers and our own writers and readers: who gets in, to what, and what is seen."""

import datetime
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import msgspec
import numpy as np
import psutil
import pytest
import reverb
from hosts import needs_haproxy
from relay import Relay
from waiting import SECONDS, wait_until

from agents import Specs
from pipeline.evaluator.far_roles import BytesAtReplay
from pipeline.experiment.config import UsageError
from pipeline.experiment.sections import Experiment
from pipeline.messages.addresses import Addresses
from pipeline.messages.channel import (
    VARIABLES_TABLE,
    WEIGHTS_TABLE,
    Publisher,
    Sender,
    server_answers,
    take,
)
from pipeline.messages.contents import REPORTS_TABLE, Evaluation, Report
from pipeline.messages.ports import free_port, refuse_used_port
from pipeline.messages.variables_reader import VariablesReader
from pipeline.replay.frames import MID, FrameLayout
from pipeline.replay.writer import FrameWriter
from pipeline.roles.collector_role import run_collector
from pipeline.runtime import native
from pipeline.security import certificate_authority, haproxy, haproxy_sides
from pipeline.security.certificate_authority import CLIENTS, REPLAY, Authority
from pipeline.security.haproxy import Proxy
from pipeline.security.haproxy_sides import METHODS, ClientSide, Credentials, ServerSide

ROOT = Path(__file__).resolve().parents[3]
SERVICE = "/deepmind.reverb.ReverbService/"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = bytes.fromhex("000000040000000000")
EVALUATION = Evaluation(1, 2, 3.0, 4.0, 5.0, 6.0, 7.0, 8, 9.0, 10, True)
MARKER = b"CAN-YOU-READ-ME?"

pytestmark = needs_haproxy


class Site(NamedTuple):
    """A replay with its proxy."""

    experiment: Experiment
    specs: Specs
    server: Any
    proxy: Proxy
    port: int
    """That the proxy listens on."""
    log: Path

    def layout(self) -> FrameLayout:
        return FrameLayout.of(self.experiment, self.specs)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Good certificates, and expired ones of the same authority in `expired-*.pem`."""
    made = Authority(tmp_path_factory.mktemp("tls") / "its own")  # with a space, as users have
    now = datetime.datetime.now(datetime.UTC)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificate_authority, "_now", lambda: now - datetime.timedelta(days=100))
        made.create(["localhost", "127.0.0.1"], days=10, authority_days=1000)
    for role in certificate_authority.ROLES:
        shutil.copy2(made.of(role), made.of(f"expired-{role}"))
    made.renew([], days=10)
    return made


def credentials(made: Authority, role: str) -> Credentials:
    return Credentials(made.certificate, made.of(role))


@pytest.fixture
def start() -> Iterator[Callable[..., Proxy]]:
    proxies: list[Proxy] = []

    def started(side: ServerSide | ClientSide, log: Path) -> Proxy:
        proxies.append(Proxy(side, log))
        proxies[-1].start()
        return proxies[-1]

    yield started
    for proxy in proxies:
        proxy.stop()


@pytest.fixture
def make_site(
    serve: Any, make_experiment: Any, counting_specs: Specs, certificates: Authority, start: Any, tmp_path: Path
) -> Callable[..., Site]:
    def make(*overrides: str, role: str = REPLAY, blocking: bool = False, relayed: bool = False, **limits: int) -> Site:
        weights_port = free_port()
        experiment = make_experiment(f"replay.weights_port={weights_port}", *overrides)
        server = serve(experiment, counting_specs, blocking=blocking)
        replay_port = int(server.address.rpartition(":")[2])
        log = tmp_path / "server.log"
        side = ServerSide(credentials(certificates, role), "127.0.0.1", 0, replay_port, weights_port, **limits)
        proxy = start(side, log)
        return Site(experiment, counting_specs, server, proxy, int(proxy.address.rpartition(":")[2]), log)

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@pytest.fixture
def connect(start: Any, tmp_path: Path, certificates: Authority) -> Callable[..., Proxy]:
    """Starts the client side of a role."""
    count = 0

    def connected(port: int, role: str = "collector", host: str = "localhost", of: Authority = certificates) -> Proxy:
        nonlocal count
        count += 1
        side = ClientSide(credentials(of, role), tmp_path / f"sockets{count}", host, port)
        proxy: Proxy = start(side, tmp_path / "client.log")
        return proxy

    return connected


def frames_of(site: Site, observation: bytes = bytes(16)) -> Any:
    frames = site.layout().empty(site.experiment.collect.lanes)
    (leaf,) = site.specs.leaves()
    frames[site.layout().leaf_field(leaf)] = np.frombuffer(observation, np.float32)
    frames["step_type"] = frames["next_step_type"] = MID
    return frames


def patiently(seconds: float = SECONDS) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() < deadline


def write(writer: FrameWriter, frames: Any, steps: int) -> None:
    keep_waiting = patiently()
    for _ in range(steps):
        writer.append(frames)
        assert writer.confirm(keep_waiting), "the replay does not take frames"
    assert writer.confirm(keep_waiting, everything=True), "the replay does not confirm frames"


def newest_weights(address: str) -> int:
    reader = VariablesReader(address, 0.05)
    newest = reader.wait(60, "a test")
    reader.close()
    return newest.gradient_steps


def haproxy_of(proxy: Proxy) -> psutil.Process:
    """The process of a proxy, once it is haproxy's."""
    assert proxy.pid is not None
    process = psutil.Process(proxy.pid)
    wait_until(lambda: process.name() == "haproxy", "haproxy runs")
    return process


def test_frames_weights_and_reports_pass_both_proxies(site: Site, connect: Any, publish: Any, draw: Any) -> None:
    proxy = connect(site.port)
    assert Publisher([site.server.server.weights_address]).publish(publish(site.specs, gradient_steps=7), True)
    assert newest_weights(proxy.messages_address) == 7
    writer = FrameWriter.of(site.experiment, site.layout(), proxy.address)
    write(writer, frames_of(site, np.arange(4, dtype=np.float32).tobytes()), 40)
    assert writer.book.unconfirmed_windows == site.experiment.collect.lanes, "the newest frames wait for the next"
    assert writer.book.confirmed_windows == site.server.tally().inserted * site.experiment.windows_per_item > 0
    drawn = draw(site.server, 1)["observation"]
    assert (np.asarray(drawn) == np.arange(4)).all()
    assert Sender(proxy.messages_address, REPORTS_TABLE).send(EVALUATION, 30)
    reports: list[Report] = []
    take(native.reverb_client(site.server.address), REPORTS_TABLE, Report, 1, reports.append)
    assert reports == [EVALUATION]
    writer.close()


def test_a_collector_runs_through_the_proxies_to_its_last_report(
    site: Site, connect: Any, publish: Any, receive: Any
) -> None:
    proxy, codes, reports = connect(site.port), [], receive(site.server.address)
    publisher = Publisher(site.server.publication_addresses)  # as a learner's process with a replay of its own
    assert publisher.publish(publish(site.specs), True)

    def collect() -> None:
        addresses = Addresses([proxy.address], proxy.address, proxy.messages_address, proxy.messages_address)
        codes.append(run_collector(site.experiment, 0, addresses, "p", threading.Event()))

    threading.Thread(target=collect, daemon=True).start()
    wait_until(lambda: site.server.tally().inserted > 20, "the collector has written")
    assert publisher.publish(
        msgspec.structs.replace(publish(site.specs, gradient_steps=1), stopping=True, is_finished=True), True
    )
    wait_until(lambda: bool(codes) and bool(reports) and reports[-1].last, "the collector has left")
    assert codes == [0]
    assert reports[-1].unconfirmed == 0
    assert reports[-1].windows == site.server.tally().inserted * site.experiment.windows_per_item
    assert BytesAtReplay(site.server, goes_on=False).more() > 100 * len(reports), "though it came through a proxy"
    assert BytesAtReplay(site.server, goes_on=True).more() == 0, "what was before has been counted"


def test_the_replay_keeps_weights_apart_and_frees_both_ports(
    make_experiment: Any, counting_specs: Specs, publish: Any, tmp_path: Path
) -> None:
    from pipeline.replay.embedded import EmbeddedReplay

    port, weights_port = free_port(), free_port()
    experiment = make_experiment(f"replay.weights_port={weights_port}")
    server = EmbeddedReplay(experiment, counting_specs, port, tmp_path / "reverb", blocking=False)
    assert sorted(reverb.Client(server.server.weights_address).server_info(30)) == [VARIABLES_TABLE, WEIGHTS_TABLE]
    assert Publisher([server.server.weights_address]).publish(publish(counting_specs), True)
    assert server.client.server_info(30)[VARIABLES_TABLE].current_size == 0
    server.save()
    with pytest.raises(UsageError, match=f"port {weights_port} is in use"):
        EmbeddedReplay(experiment, counting_specs, free_port(), tmp_path / "other", blocking=False)
    server.stop()
    wait_until(lambda: is_free(port) and is_free(weights_port), "the ports are free")
    assert [path.name for path in tmp_path.iterdir()] == ["reverb"]


def is_free(port: int) -> bool:
    try:
        refuse_used_port(port)
    except UsageError:
        return False
    return True


def test_a_learner_on_another_host_draws_through_the_proxies(site: Site, connect: Any, run_python: Any) -> None:
    # In a process of its own: where nothing is drawn, the wait for it has no end.
    write(FrameWriter.of(site.experiment, site.layout(), site.server.address), frames_of(site, MARKER), 20)
    code = """
        import sys, numpy
        from pipeline.runtime import native
        drawn = native.reverb_client(sys.argv[1]).NewSampler(sys.argv[2], 1, 1).GetNextTrajectory()
        print(sys.argv[3].encode() in numpy.asarray(drawn[-1]).tobytes())
    """
    printed = run_python(code, connect(site.port, "learner").address, site.layout().table, MARKER.decode())
    assert printed.split() == ["True"]


def test_nothing_readable_leaves_the_host(site: Site, connect: Any, start: Any, certificates: Authority) -> None:
    clear = Relay(int(site.server.address.rpartition(":")[2]))
    weights_port = int(site.server.server.weights_address.rpartition(":")[2])
    behind = ServerSide(credentials(certificates, REPLAY), "127.0.0.1", 0, clear.port, weights_port)
    network = Relay(int(start(behind, site.log).address.rpartition(":")[2]))
    writer = FrameWriter.of(site.experiment, site.layout(), connect(network.port).address)
    write(writer, frames_of(site, MARKER), 40)
    writer.close()
    names = [MARKER, b"deepmind", site.layout().table.encode(), b"collector"]
    assert MARKER in clear.passed
    assert site.layout().table.encode() in clear.passed
    assert len(network.passed) > len(clear.passed) / 2  # the same traffic
    assert [name for name in names if name in network.passed] == []
    clear.close()
    network.close()


# What a role's certificate lets it call: the table of docs/several_hosts.md.


@pytest.mark.parametrize("role", CLIENTS)
def test_each_role_may_call_what_it_needs(role: str, site: Site, connect: Any) -> None:
    channel = grpc.insecure_channel(connect(site.port, role).address)
    every = {"InitializeConnection", "ServerInfo", "InsertStream", "SampleStream", "MutatePriorities", "Reset"}
    for method in sorted(every | {"Checkpoint", "Unheard"}):
        call = channel.stream_stream(SERVICE + method)
        code = grpc.StatusCode.OK
        try:
            list(call(iter([b""]), timeout=60))
        except grpc.RpcError as error:
            code = error.code()
        is_refused = code == grpc.StatusCode.PERMISSION_DENIED
        assert is_refused == (method not in METHODS[role]), (method, code)
        assert is_refused or code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), method
    channel.close()


@pytest.mark.parametrize(
    "path",
    [
        "/x/.." + SERVICE + "Reset",
        "/" + SERVICE + "Reset",
        SERVICE + "Reset?ServerInfo",
        SERVICE + "ServerInfo?x=/Reset",
        SERVICE + "ServerInfo?",
        SERVICE + "ServerInfo/Reset",
        SERVICE + "ServerInfo/",
        SERVICE + "ServerInfo%2F..%2FReset",
        SERVICE + "ServerInf%6F",
        SERVICE + "serverinfo",
        SERVICE + "/ServerInfo",
        SERVICE + "ServerInfo;x=Reset",
    ],
)
def test_no_spelling_of_a_path_passes(path: str, site: Site, connect: Any) -> None:
    with grpc.insecure_channel(connect(site.port).address) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(path)(b"", timeout=60)
    assert raised.value.code() == grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("path", [SERVICE + "ServerInfo#/Reset", SERVICE.replace("/", "%2F") + "ServerInfo"])
def test_what_is_no_path_ends_the_stream(path: str, site: Site, connect: Any) -> None:
    with grpc.insecure_channel(connect(site.port).address) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(path)(b"", timeout=60)
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    assert "RST_STREAM" in raised.value.details()


def test_a_collector_changes_nothing_but_by_inserting(site: Site, connect: Any) -> None:
    write(FrameWriter.of(site.experiment, site.layout(), site.server.address), frames_of(site), 20)
    table, before = site.layout().table, site.server.info()
    (sample,) = site.server.client.sample(table, 1)
    stored = sorted(Path(site.server.save()).parent.iterdir())
    client = reverb.Client(connect(site.port).address)
    for attempt in (
        lambda: client.reset(table),
        lambda: client.mutate_priorities(table, updates={sample[0].info.key: 9.0}),
        lambda: client.mutate_priorities(table, deletes=[sample[0].info.key]),
        client.checkpoint,
    ):
        with pytest.raises(RuntimeError, match="403"):
            attempt()
    assert site.server.info().current_size == before.current_size > 0
    assert site.server.info().num_deleted_episodes == before.num_deleted_episodes
    assert sorted(stored[0].parent.iterdir()) == stored
    assert "collector POST" in site.log.read_text()
    assert "Reset 403" in site.log.read_text()


@pytest.mark.parametrize("role", haproxy_sides.UNTRUSTED_READERS)
def test_who_needs_the_weights_alone_reads_nothing_else(role: str, site: Site, connect: Any, run_python: Any) -> None:
    write(FrameWriter.of(site.experiment, site.layout(), site.server.address), frames_of(site, MARKER), 20)
    assert Sender(site.server.address, REPORTS_TABLE).send(EVALUATION, 30)
    proxy = connect(site.port, role)
    code = """
        import sys
        from pipeline.runtime import native
        for address in sys.argv[1:3]:
            for table in sys.argv[3:]:
                try:
                    native.reverb_client(address).NewSampler(table, 1, 1).GetNextTrajectory()
                    print("read", table)
                except Exception as error:
                    print("refused", "not found" in str(error).lower(), error)
    """
    addresses = proxy.address, proxy.messages_address
    lines = run_python(code, *addresses, site.layout().table, REPORTS_TABLE).splitlines()
    assert len(lines) == 4
    assert all(line.startswith("refused True") for line in lines), lines


def test_weights_that_a_collector_inserts_reach_nobody(site: Site, connect: Any, publish: Any) -> None:
    assert Publisher([site.server.server.weights_address]).publish(publish(site.specs, gradient_steps=7), True)
    proxy = connect(site.port)
    for address in (proxy.address, proxy.messages_address):
        assert Publisher([address]).publish(publish(site.specs, gradient_steps=1000), True)
    assert newest_weights(site.server.server.weights_address) == newest_weights(proxy.messages_address) == 7


# Who does not get in.


def gets_in(proxy: Proxy, seconds: float = SECONDS) -> bool:
    return server_answers(native.reverb_client(proxy.address), seconds)


def is_kept_out(proxy: Proxy, was_refused: Callable[[], bool]) -> bool:
    """Whether there is no answer until it is seen that the connection was refused."""
    deadline = time.monotonic() + SECONDS
    while not was_refused():
        assert time.monotonic() < deadline, "waited in vain until a connection is refused"
        if gets_in(proxy, 1.0):
            return False
    return not gets_in(proxy, 1.0)


def refusal(site: Site) -> Callable[[], bool]:
    """Whether a site's proxy has refused a connection since this was called."""
    before = site.log.read_text().count("no connection")
    return lambda: site.log.read_text().count("no connection") > before


def test_certificates_of_another_authority_and_expired_ones_do_not_get_in(
    site: Site, connect: Any, tmp_path: Path, certificates: Authority
) -> None:
    assert gets_in(connect(site.port))
    other = Authority(tmp_path / "other")
    other.create(["localhost"], 10, 10)
    trusting = tmp_path / "trusting"  # their certificate, but our authority: so that they believe the server
    shutil.copytree(other.folder, trusting)
    shutil.copy(certificates.certificate, trusting / "ca.pem")
    assert is_kept_out(connect(site.port, of=Authority(trusting)), refusal(site))
    assert is_kept_out(connect(site.port, of=other), refusal(site))  # nor do they believe ours
    assert is_kept_out(connect(site.port, role="expired-collector"), refusal(site))
    assert is_kept_out(connect(site.port, role=REPLAY), refusal(site))  # good for a server only
    assert "certificate verify failed" in site.log.read_text()


def test_a_client_believes_only_the_replays_certificate_for_the_host_it_asked_for(
    make_site: Any, connect: Any, certificates: Authority
) -> None:
    assert gets_in(connect(make_site().port, host="127.0.0.1"))
    for role in ("collector", "expired-replay"):  # a collector that poses as the replay, and one whose time is over
        site = make_site(role=role)
        assert is_kept_out(connect(site.port), refusal(site))
    elsewhere = Relay(make_site().port, "127.1.1.1")  # reached, but not named by the certificate
    assert is_kept_out(connect(elsewhere.port, host="127.1.1.1"), lambda: bool(elsewhere.passed))
    elsewhere.close()


def talk(port: int, context: ssl.SSLContext | None, *parts: bytes, seconds: float = 20.0) -> bytes:
    """Sends bytes, in TLS if there is a context, and returns what comes back until the server ends it or is silent."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as plain:
        try:
            connection = context.wrap_socket(plain, server_hostname="localhost") if context else plain
            for part in parts:
                connection.sendall(part)
            while data := connection.recv(65536):
                answer += data
        except (OSError, TimeoutError):
            pass
    return answer


@pytest.fixture
def as_collector(certificates: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(certificates.certificate))
    context.load_cert_chain(certificates.of("collector"))
    context.set_alpn_protocols(["h2"])
    return context


def test_without_a_certificate_or_with_an_old_protocol_there_is_no_answer(
    site: Site, certificates: Authority, as_collector: ssl.SSLContext
) -> None:
    nobody = ssl.create_default_context(cafile=str(certificates.certificate))
    nobody.set_alpn_protocols(["h2"])
    assert talk(site.port, nobody, PREFACE, SETTINGS) == b""
    assert SETTINGS[:3] not in talk(site.port, None, PREFACE, SETTINGS, seconds=1)
    assert talk(site.port, as_collector, PREFACE, SETTINGS, seconds=1) != b""
    as_collector.maximum_version = ssl.TLSVersion.TLSv1_2
    assert talk(site.port, as_collector, PREFACE, SETTINGS, seconds=1) == b""


def test_garbage_and_what_breaks_off_do_nothing(site: Site, connect: Any, as_collector: ssl.SSLContext) -> None:
    random, process = np.random.default_rng(0), haproxy_of(site.proxy)
    headers = bytes.fromhex("0000ff010400000001")  # a frame of 255 bytes of headers, of which none come
    hello = bytes.fromhex("1603010200010001fc0303")  # of a client, broken off
    for garbage in (random.bytes(10_000), hello, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b""):
        talk(site.port, None, garbage, seconds=0.5)
    flood = b"".join(bytes.fromhex("003fff010000000001") + random.bytes(0x3FFF) for _ in range(20))
    for garbage in (random.bytes(10_000), PREFACE[:10], PREFACE + SETTINGS + headers, PREFACE + SETTINGS + flood):
        talk(site.port, as_collector, garbage, seconds=0.5)
    before = site.server.tally().inserted
    writer = FrameWriter.of(site.experiment, site.layout(), connect(site.port).address)
    write(writer, frames_of(site), 20)
    assert before == 0 < site.server.tally().inserted
    assert haproxy_of(site.proxy) == process
    assert site.proxy.poll() is None
    writer.close()


def test_one_peer_has_only_so_many_connections(make_site: Any) -> None:
    site = make_site(connections_per_peer=3)
    opened = [socket.create_connection(("127.0.0.1", site.port), timeout=60) for _ in range(5)]
    wait_until(lambda: len(ended(opened)) == 2, "two of five connections are ended")
    time.sleep(0.5)
    assert len(ended(opened)) == 2
    for connection in opened:
        connection.close()


def ended(connections: list[socket.socket]) -> list[socket.socket]:
    """Those that the other side has ended: it has said nothing, and there is something to read."""
    return select.select(connections, [], [], 0.0)[0]


# What goes on.


@pytest.mark.parametrize("which", ["server", "client"])
def test_a_writer_goes_on_when_a_proxy_is_restarted(which: str, site: Site, connect: Any) -> None:
    client = connect(site.port)
    writer = FrameWriter.of(site.experiment, site.layout(), client.address)
    write(writer, frames_of(site), 20)
    proxy = site.proxy if which == "server" else client
    haproxy_of(proxy).kill()
    wait_until(lambda: proxy.poll() is not None, "the proxy has ended")
    assert proxy.poll() == -signal.SIGKILL
    restart = threading.Timer(0.5, proxy.start)
    restart.start()
    write(writer, frames_of(site), 20)
    restart.join()
    assert writer.book.unconfirmed_windows == site.experiment.collect.lanes, "the newest frames wait for the next"
    assert writer.book.confirmed_windows == site.server.tally().inserted * site.experiment.windows_per_item
    writer.close()


@pytest.mark.parametrize("hurry", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_stream_may_be_silent_longer_than_a_request_may_take(
    make_site: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, hurry: int
) -> None:
    def hurried(timeout: re.Match[str]) -> str:
        return f"timeout {timeout[1]} {int(timeout[2]) * 1000 // hurry}ms"

    settings = re.sub(r"timeout (\S+) (\d+)s", hurried, haproxy_sides._COMMON)
    assert settings != haproxy_sides._COMMON
    monkeypatch.setattr(haproxy_sides, "_COMMON", settings)
    site = make_site()
    writer = FrameWriter.of(site.experiment, site.layout(), connect(site.port).address)
    write(writer, frames_of(site), 10)
    before = peers_of(site)
    time.sleep(13 / hurry)  # a request may take 10 s
    write(writer, frames_of(site), 10)
    assert peers_of(site) == before != set()
    writer.close()


def peers_of(site: Site) -> set[Any]:
    """The other ends of the connections to a site's proxy."""
    connections = haproxy_of(site.proxy).net_connections("tcp")
    return {connection.raddr for connection in connections if connection.laddr.port == site.port and connection.raddr}


def test_a_writer_that_is_held_back_holds_up_neither_weights_nor_reports(
    make_site: Any, connect: Any, publish: Any
) -> None:
    # Nobody samples: the limiter lets some items in and holds back the rest.
    site = make_site("replay.capacity=64", "replay.min_size=16", "replay.samples_per_insert=1.0", blocking=True)
    proxy, random = connect(site.port), np.random.default_rng(0)
    writer = reverb.Client(proxy.address).trajectory_writer(2, validate_items=False)
    for _ in range(300):
        writer.append({"frames": random.integers(0, 255, 100_000, np.uint8)})
        writer.create_item(site.layout().table, 1.0, {"frames": writer.history["frames"][-1:]})
    assert Publisher([site.server.server.weights_address]).publish(publish(site.specs, gradient_steps=7), True)
    assert newest_weights(proxy.messages_address) == 7
    assert Sender(proxy.messages_address, REPORTS_TABLE).send(EVALUATION, 30)
    assert gets_in(connect(site.port))
    assert site.server.tally().inserted < 300, "nothing was held back"
    writer._writer.Close()


def test_a_proxy_ends_with_its_owner(tmp_path: Path, certificates: Authority) -> None:
    code = """
        import sys, os, time
        from pathlib import Path
        from pipeline.security.haproxy import Proxy
        from pipeline.security.haproxy_sides import Credentials, ServerSide
        folder = Path(sys.argv[1])
        side = ServerSide(Credentials(folder / "ca.pem", folder / "replay.pem"), "127.0.0.1", 0, 1, 2)
        proxy = Proxy(side, Path(os.devnull))
        proxy.start()
        print(proxy.pid, flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(certificates.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as owner:
        assert owner.stdout is not None
        process = psutil.Process(int(owner.stdout.readline()))
        wait_until(lambda: process.name() == "haproxy", "haproxy runs")
        owner.kill()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, "haproxy has ended")


def test_a_stopped_proxy_leaves_nothing(site: Site, connect: Any, tmp_path: Path) -> None:
    proxy = connect(site.port)
    assert gets_in(proxy)
    process, sockets = haproxy_of(proxy), list((tmp_path / "sockets1").iterdir())
    assert len(sockets) == 2
    assert {path.stat().st_mode & 0o777 for path in sockets} == {0o600}
    proxy.stop()
    assert not process.is_running()
    assert not list((tmp_path / "sockets1").iterdir())
    proxy.stop()  # again: nothing happens


# Mistakes.


def test_mistakes_are_usage_errors(tmp_path: Path, certificates: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    good, log = credentials(certificates, REPLAY), tmp_path / "log"

    def refusal(side: ServerSide | ClientSide) -> str:
        with pytest.raises(UsageError) as raised:
            Proxy(side, log)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    missing = Credentials(certificates.certificate, tmp_path / "none.pem")
    assert "is missing" in refusal(ServerSide(missing, "127.0.0.1", 0, 1, 2))
    shutil.copy(good.certificate, tmp_path / "open.pem")
    (tmp_path / "open.pem").chmod(0o644)
    assert "chmod 600" in refusal(ServerSide(Credentials(good.authority, tmp_path / "open.pem"), "127.0.0.1", 0, 1, 2))
    (tmp_path / "bad.pem").write_text("no certificate")
    (tmp_path / "bad.pem").chmod(0o600)
    assert "bad.pem" in refusal(ServerSide(Credentials(good.authority, tmp_path / "bad.pem"), "127.0.0.1", 0, 1, 2))
    with socket.create_server(("127.0.0.1", 0)) as used:
        assert "in use" in refusal(ServerSide(good, "127.0.0.1", used.getsockname()[1], 1, 2))
    assert "cannot listen on" in refusal(ServerSide(good, "203.0.113.1", 0, 1, 2))
    assert "too long" in refusal(ClientSide(good, tmp_path / ("x" * 100), "localhost", 1))
    assert "host name" in refusal(ClientSide(good, tmp_path / "s", "a b\nbind *:1", 1))
    first = Proxy(ClientSide(good, tmp_path / "s", "localhost", 1), log)
    assert "in use" in refusal(ClientSide(good, tmp_path / "s", "localhost", 1))
    first.stop()
    monkeypatch.setattr(haproxy.shutil, "which", lambda *_, **__: None)
    assert "package haproxy" in refusal(ServerSide(good, "127.0.0.1", 0, 1, 2))


def test_the_command_keeps_a_proxy_running(site: Site, certificates: Authority, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.proxy", "--side=client", f"--certificates={certificates.folder}"]
    command += ["--role=collector", f"--connect=localhost:{site.port}", f"--sockets={tmp_path / 's'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = f"unix:{tmp_path / 's'}/frames.sock"
        assert address in line
        wait_until(lambda: server_answers(native.reverb_client(address), 5), "the replay answers")
        (child,) = psutil.Process(process.pid).children()
        child.kill()
        wait_until(lambda: len(psutil.Process(process.pid).children()) == 1 and not child.is_running(), "a restart")
        wait_until(lambda: server_answers(native.reverb_client(address), 5), "the replay answers again")
        process.terminate()
        assert process.wait(30) == 0
    assert not list((tmp_path / "s").iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--side is missing"),
        (["--side=server"], "--replay_port is missing"),
        (["--side=server", "--replay_port=9000"], "--weights_port is missing"),
        (["--side=server", "--replay_port=9000", "--weights_port=9001", "--listen=here"], "not HOST:PORT"),
        (["--side=server", "--replay_port=9000", "--weights_port=9001"], "--certificates is missing"),
        (["--side=client"], "--sockets is missing"),
        (["--side=inference"], "--inference is missing"),
        (["--side=inference", "--inference=10.0.0.1:9"], "of this host is at unix:/path"),
        (["--side=client", "--sockets=s", "--connect=h:1", "--role=learner", "--connect_inference=h:2"], "collectors"),
        (["--side=client", "--sockets=s"], "not HOST:PORT"),
        (["--side=client", "--sockets=s", "--connect=h:1", "--role=king"], "king"),
        (["--side=client", "--sockets=s", "--connect=h:1", "--certificates=none"], "is missing"),
        (["more"], "unexpected argument"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline.proxy", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
