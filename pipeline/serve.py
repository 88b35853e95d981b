"""Answers HTTP with a policy's greedy actions, by the interface of TensorFlow Serving's REST predictions.

Example:
  python -m pipeline.serve --run_dir=runs/cartpole --port=8501
  curl -d '{"instances": [[0.1, 0, 0, 0]]}' http://127.0.0.1:8501/v1/models/policy:predict

It answers {"predictions": [{"action": 1, "q_values": [9.7, 9.9]}]}. Nobody is asked who they are: it listens on this
machine alone unless --host says otherwise. SIGTERM ends it.
"""

import asyncio
import errno
import functools
import logging
import socket
import sys
from pathlib import Path

from absl import flags

from pipeline.command import TRUST_HELP, refuse_more, run_command
from pipeline.environments import EnvironmentFault
from pipeline.experiment.config import UsageError
from pipeline.export import directory as exported
from pipeline.security import strangers

_MODEL = flags.DEFINE_string("model", None, "Directory that pipeline.export wrote.")
_RUN_DIR = flags.DEFINE_string("run_dir", None, "Directory of a run, in the place of --model.")
_POLICY = flags.DEFINE_enum("policy", "best", ["best", "latest"], "Of the run's evaluations so far.")
_TRUST = flags.DEFINE_enum("trust", "yes", ["yes", "no"], TRUST_HELP)
_PORT = flags.DEFINE_integer("port", 8501, "To listen on; 0 takes a free one.", lower_bound=0, upper_bound=65535)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 is all of this machine's.")


def main(arguments: list[str]) -> int:
    """Loads the policy and serves it."""
    refuse_more(arguments)
    if bool(_MODEL.value) == bool(_RUN_DIR.value):
        raise UsageError("give either --model, a directory that pipeline.export wrote, or --run_dir")
    logging.basicConfig(format="%(levelname)s %(message)s")
    with strangers.reading(Path(_MODEL.value or _RUN_DIR.value), _TRUST.value == "yes"):
        return _serve()


def _serve() -> int:
    try:
        policy = (
            exported.read(Path(_MODEL.value)) if _MODEL.value else exported.of_run(Path(_RUN_DIR.value), _POLICY.value)
        )
    except EnvironmentFault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    with _listen(_HOST.value, _PORT.value) as listening:
        from pipeline.export import http_server  # its imports take a while, which usage errors do not wait for

        source = _MODEL.value or f"the {_POLICY.value} policy of {_RUN_DIR.value}"
        host = f"[{_HOST.value}]" if ":" in _HOST.value else _HOST.value
        url = f"http://{host}:{listening.getsockname()[1]}/v1/models/{http_server.NAME}"
        ready = functools.partial(print, f"serving {source} at {url}", flush=True)
        asyncio.run(http_server.serve(policy, listening, ready))
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
      host: of this machine, by name or address.
      port: 0 takes a free one.

    Raises:
      UsageError: it cannot listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} is in use: choose another --port") from None
        raise UsageError(f"cannot listen on --host={host} --port={port}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(run_command(main, __doc__))
