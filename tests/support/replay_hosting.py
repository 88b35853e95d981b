"""Replay servers in a process of their own, which ends with the one that started it.

Run as a program it serves what its one argument says, a JSON list of the arguments of `serve`.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.messages.ports import HOST, free_port

ROOT = Path(__file__).resolve().parents[2]


class Hosted:
    """Servers of one process.

    Args:
      servers: arguments of `serve`, without the ports.
    """

    def __init__(self, *servers: dict[str, Any]) -> None:
        self.servers = [{"port": free_port(), **server} for server in servers]
        self.addresses = [f"{HOST}:{server['port']}" for server in self.servers]
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(self.servers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def wait(self) -> None:
        """Waits until the servers listen."""
        assert self._answer() == "ready"

    def checkpoint(self, server: int) -> str:
        """Writes one of a server."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{server}\n")
        self._process.stdin.flush()
        return self._answer()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The process stands still meanwhile."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends the process as it is."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextlib.contextmanager
def hosted(*servers: dict[str, Any]) -> Iterator[Hosted]:
    """Servers that listen."""
    host = Hosted(*servers)
    try:
        host.wait()
        yield host
    finally:
        host.kill()


def serve(
    overrides: Sequence[str], port: int, folder: str, shard: int, restore_from: str = "", blocking: bool = True
) -> Any:
    """A server of the counting environment's frames."""
    from agents import ArraySpec, Specs
    from pipeline.experiment.config import parse
    from pipeline.replay.shards.separate_server import SeparateServer

    source = Path(restore_from) if restore_from else None
    experiment, specs = parse("", tuple(overrides)), Specs(ArraySpec((4,), "float32"), 3)
    return SeparateServer(experiment, specs, port, Path(folder), source, blocking, shard=shard)


if __name__ == "__main__":
    servers = [serve(**arguments) for arguments in json.loads(sys.argv[1])]
    print("ready", flush=True)
    for line in sys.stdin:
        print(servers[int(line)].checkpoint(), flush=True)
    os._exit(0)
