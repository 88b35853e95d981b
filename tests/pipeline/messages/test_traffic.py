"""What the kernel counts of this process's connections, held against bytes that were sent, in a process of its own."""

import time
from collections.abc import Callable
from typing import Any

import msgspec
from relay import Relay
from waiting import SECONDS

from agents import Specs
from pipeline.experiment import config
from pipeline.messages.channel import Publisher
from pipeline.messages.contents import CollectorReport

SOCKETS = """
import os, random, socket, tempfile, threading, time
from pipeline.messages.traffic import Traffic

server = socket.create_server(("127.0.0.1", 0))

def connect():
    near = socket.create_connection(server.getsockname())
    far, _ = server.accept()
    return near, far

def send(source, sink, size):
    source.sendall(bytes(size))
    while size:
        size -= len(sink.recv(65536))

def read_until(sent, received, connections):
    # A connection's beginning and end may count as a byte, for each of its two ends; acknowledgements may take a while.
    deadline = time.monotonic() + 20
    while True:
        now = traffic.read()
        if now[0] >= sent and now[1] >= received:
            break
        assert time.monotonic() < deadline, (now, sent, received)
    time.sleep(0.1)
    now = traffic.read()
    assert sent <= now[0] <= sent + 2 * connections, (now, sent)
    assert received <= now[1] <= received + 2 * connections, (now, received)
    return now

traffic = Traffic()
assert traffic.read() == (0, 0)
"""


def test_both_ends_of_a_connection_are_counted_and_stay_counted(run_python: Callable[..., str]) -> None:
    code = """
near, far = connect()
send(near, far, 100_000)
send(far, near, 1_000)
read_until(101_000, 101_000, 1)
far.close()
assert near.recv(1) == b""
read_until(101_000, 101_000, 1)
near.close()
assert traffic.read() == traffic.read()
read_until(101_000, 101_000, 1)
    """
    run_python(SOCKETS + code)


def test_a_descriptor_that_is_used_again_is_another_connection(run_python: Callable[..., str]) -> None:
    code = """
total, descriptors, draw = 0, set(), random.Random(0)
for connections in range(1, 31):
    near, far = connect()
    descriptors |= {near.fileno(), far.fileno()}
    size = draw.randrange(1, 50_000)
    total += size
    sent, received = traffic.read()
    send(near, far, size)
    while any(now < then + size for now, then in zip(traffic.read(), (sent, received))):
        time.sleep(0.001)
    near.close()
    far.close()
assert len(descriptors) == 2
read_until(total, total, connections)
    """
    run_python(SOCKETS + code)


def test_a_connection_with_two_descriptors_counts_once(run_python: Callable[..., str]) -> None:
    code = """
near, far = connect()
again = near.dup()
send(near, far, 10_000)
send(again, far, 5_000)
read_until(15_000, 15_000, 1)
near.close()
send(again, far, 5_000)
read_until(20_000, 20_000, 1)
    """
    run_python(SOCKETS + code)


def test_what_is_no_tcp_connection_counts_nothing(run_python: Callable[..., str]) -> None:
    code = """
here, there = socket.socketpair()
send(here, there, 10_000)
with tempfile.TemporaryDirectory() as folder:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(folder + "/socket")
    listener.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect(folder + "/socket")
    client.sendall(bytes(10_000))
datagrams = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
datagrams[0].bind(("127.0.0.1", 0))
datagrams[1].sendto(bytes(1_000), datagrams[0].getsockname())
unconnected = socket.socket()
reader, writer = os.pipe()
os.write(writer, bytes(1_000))
assert traffic.read() == (0, 0)
    """
    run_python(SOCKETS + code)


def test_connections_may_come_and_go_meanwhile(run_python: Callable[..., str]) -> None:
    code = """
near, far = connect()
stopped = threading.Event()

def churn():
    with socket.create_server(("127.0.0.1", 0)) as other:
        while not stopped.is_set():
            client = socket.create_connection(other.getsockname())
            accepted, _ = other.accept()
            client.sendall(bytes(10))
            client.close()
            accepted.close()

churning = threading.Thread(target=churn)
churning.start()
before = (0, 0)
for _ in range(300):
    send(near, far, 100)
    now = traffic.read()
    assert now[0] >= before[0] and now[1] >= before[1]
    before = now
stopped.set()
churning.join()
assert before[0] >= 29_000
    """
    run_python(SOCKETS + code)


def test_a_collectors_reports_say_what_has_passed(
    serve: Any, make_experiment: Any, counting_specs: Specs, publish: Any, receive: Any, run_python: Callable[..., str]
) -> None:
    experiment = make_experiment()
    server = serve(experiment, counting_specs)
    relay = Relay(int(server.address.rpartition(":")[2]))
    publisher = Publisher([server.address])
    publisher.publish(publish(counting_specs), wait_for_all=True)

    def accept(report: CollectorReport) -> None:
        if report.windows > 20_000:
            publisher.publish(msgspec.structs.replace(publish(counting_specs), stopping=True))

    reports = receive(server.address, accept)
    code = """
        import os, sys, threading
        from pipeline.experiment import config
        from pipeline.messages.addresses import Addresses
        from pipeline.roles.collector_role import run_collector
        experiment = config.parse(sys.argv[1], ())
        run_collector(experiment, 0, Addresses.of([sys.argv[2]]), "p", threading.Event())
        os._exit(0)
    """
    run_python(code, config.dump(experiment), f"127.0.0.1:{relay.port}")
    deadline = time.monotonic() + SECONDS
    while not reports[-1].last:
        assert time.monotonic() < deadline, "the last report has not come"
        time.sleep(0.01)
    passed, last = len(relay.passed), reports[-1]
    assert 0.8 * passed < last.bytes_sent + last.bytes_received < passed + 100, "connections end as they begin"
    assert last.bytes_sent > 2 * last.bytes_received > 0, "frames are more than weights"
    sent = [report.bytes_sent for report in reports]
    assert sent == sorted(sent)
    publisher.close()
    relay.close()


def test_a_server_counts_what_other_processes_send_it_and_not_what_its_own_does(run_python: Callable[..., str]) -> None:
    code = """
import subprocess, sys
from pipeline.messages.traffic import Arrivals, Departures
with socket.create_server(("127.0.0.1", 0)) as server:
    port = server.getsockname()[1]
    arrivals, departures, others = Arrivals(port), Departures([port]), Departures([port + 1])
    own = socket.create_connection(("127.0.0.1", port))
    from_own, _ = server.accept()
    send(own, from_own, 5_000)
    program = f"import socket; c = socket.create_connection(('127.0.0.1', {port})); c.sendall(bytes(70_000)); input()"
    other = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    from_other, _ = server.accept()
    received = 0
    while received < 70_000:
        received += len(from_other.recv(70_000))
    assert 70_000 <= arrivals.read()[1] <= 70_002, arrivals.read()
    assert 5_000 <= departures.read()[0] <= 5_002, departures.read()
    (peer,) = arrivals.received
    assert peer == "127.0.0.1:%d" % from_other.getpeername()[1]
    assert departures.names == {"127.0.0.1:%d" % own.getsockname()[1]}
    assert others.read() == (0, 0)
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        arrivals.read()
    assert len(os.listdir("/proc/self/fd")) == files, "nothing stays open"
    other.communicate(b"\\n")
    from_other.close()
    assert 70_000 <= arrivals.read()[1] <= 70_002, "of a connection that has ended, too"
    """
    run_python(SOCKETS + code)
