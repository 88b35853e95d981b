"""How an environment or a shield breaks its contract with the run, and what is done where closing one fails."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


class EnvironmentFault(Exception):
    """An environment broke its contract too often; says which environment, lane and step."""


class ShieldFault(EnvironmentFault):
    """A shield raised, or returned no mask that leaves an action: nothing may be done until it is mended."""


class MasksIgnored(EnvironmentFault):
    """An environment gives masks of actions in a run that has no place for them."""


class ForbiddenAction(Exception):
    """An action that mask or shield forbids was about to be taken: an error of whoever chose it."""


@contextmanager
def closing(what: str) -> Iterator[None]:
    """Goes on where closing an environment raises, sys.exit() included: nothing more is asked of it."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        log.warning("closing %s raised %r", what, error)
