"""A TCP relay that keeps every byte that passes it: what somebody on the network would see."""

import socket
import threading


class Relay:
    """Listens on a free port of the loopback interface and connects through to a port there.

    Args:
      port: to connect to.
      host: address of the interface to listen on.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = port
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._passed: list[bytes] = []
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def passed(self) -> bytes:
        """All that has passed, in the order of its arrival."""
        return b"".join(self._passed)

    def close(self) -> None:
        """Ends all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for connection in [self._listener, *self._connections]:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._connections += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self._passed.append(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return
