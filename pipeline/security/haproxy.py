"""Mutual TLS between hosts: haproxy beside each role, its configuration made from typed structs. No TensorFlow.

Reverb knows neither encryption nor users. On the replay's host a proxy takes TLS 1.3 connections of those who have a
certificate of the run's authority, looks at the certificate's role and at the gRPC method, and passes what the role may
call on to Reverb in clear on the loopback interface. On the other hosts a proxy listens on sockets that only its user
can open, for the host's roles, and connects to that one.
"""

import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

from pipeline.experiment.config import UsageError
from pipeline.messages import listening
from pipeline.security.haproxy_sides import ClientSide, Credentials, PeersSide, Side, configuration

_STOP_SECONDS = 5.0


class Proxy:
    """A haproxy process, started, watched and restarted by its owner, with which it ends.

    Its sockets are bound here and outlive the process: those who connect while it is restarted wait.

    Args:
      side: what it does.
      log: takes what haproxy says: each refused request with its role, each failed handshake.

    Raises:
      UsageError: haproxy is missing or refuses the settings, the port is in use, or a file is missing or open to
        other users.
    """

    def __init__(self, side: Side, log: Path) -> None:
        self._side, self._log = side, log
        self._program = _program()
        _check(side.credentials)
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets = _bind(side)
        self._configuration = os.memfd_create("haproxy.cfg")  # a file that is gone with its last reader
        try:
            os.write(self._configuration, configuration(side, [bound.fileno() for bound in self._sockets]).encode())
            self._refuse_bad_settings()
        except BaseException:
            self.stop()
            raise

    @property
    def address(self) -> str:
        """Of a client side, the replay as its roles have to name it; of a server side, `host:port` listened on."""
        if isinstance(self._side, ClientSide):
            return f"unix:{self._sockets[0].getsockname()}"
        host, port = self._sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def messages_address(self) -> str:
        """Of a client side, the replay for weights and reports, which pass while the rate limiter holds frames back.

        haproxy reads no further stream of a connection while one of its streams waits.
        """
        return f"unix:{self._sockets[1].getsockname()}"

    @property
    def inference_address(self) -> str:
        """Of a client side, the acting server as collectors have to name it; empty where it leads to none."""
        return f"unix:{self._sockets[2].getsockname()}" if len(self._sockets) > 2 else ""

    @property
    def pid(self) -> int | None:
        """Of the process last started."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts the process, also in the place of one that has ended.

        Call it in a thread that lives as long as the proxy should: Linux ties the process to that.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.runtime.ends_with_parent", str(os.getpid()), *self._command("-db")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._descriptors,
                start_new_session=True,  # a terminal's Ctrl-C is for the owner
            )

    def poll(self) -> int | None:
        """The return code of a process that has ended; None of one that runs."""
        return self._process.poll() if self._process else None

    def stop(self) -> None:
        """Ends the process with all connections, and gives back sockets and files."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for bound in self._sockets:
            listening.close(bound)
        if self._configuration >= 0:
            os.close(self._configuration)
            self._configuration = -1

    @property
    def _descriptors(self) -> list[int]:
        return [self._configuration, *(bound.fileno() for bound in self._sockets)]

    def _command(self, mode: str) -> list[str]:
        return [self._program, mode, "-f", f"/proc/self/fd/{self._configuration}"]

    def _refuse_bad_settings(self) -> None:
        result = subprocess.run(
            self._command("-c"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            pass_fds=self._descriptors,
        )
        if result.returncode != 0:
            alerts = [line.partition(" : ")[2] for line in result.stderr.splitlines() if "[ALERT]" in line]
            raise UsageError(f"haproxy refuses its settings: {(alerts or [result.stderr.strip()])[0]}")


def _program() -> str:
    # Debian has it in a folder that is on the PATH of root alone.
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    program = shutil.which("haproxy", path=search)
    if program is None:
        raise UsageError("haproxy is not installed: install your system's package haproxy (2.6 or later)")
    return program


def _check(credentials: Credentials) -> None:
    for path in (credentials.authority, credentials.certificate):
        if not path.is_file():
            raise UsageError(f"{path} is missing: make it with python -m pipeline.certificates and copy it here")
    if stat.S_IMODE(credentials.certificate.stat().st_mode) & 0o077:
        raise UsageError(f"{credentials.certificate} is open to other users: chmod 600 {credentials.certificate}")


def _bind(side: Side) -> list[socket.socket]:
    """Listening sockets, in the order of `configuration`."""
    bound: list[socket.socket] = []
    try:
        if not isinstance(side, ClientSide):
            bound.append(listening.at_port(side.host, side.port))
            if isinstance(side, PeersSide):
                bound.extend(listening.at_port("127.0.0.1", side.learners[index]) for index in side.others)
            return bound
        try:
            side.sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{side.sockets} cannot be made: {error}") from None
        names = ("frames", "messages", "acting") if side.inference_host else ("frames", "messages")
        bound.extend(listening.at_path(side.sockets.resolve() / f"{name}.sock") for name in names)
    except BaseException:
        for earlier in bound:
            earlier.close()
        raise
    return bound
