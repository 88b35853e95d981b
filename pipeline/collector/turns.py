"""Which weights a collector of an on-policy kind waits for before its next sequences."""

Version = tuple[int, int, int]
"""`Variables.version`: life of the learner, renewals, gradient steps."""


class Turns:
    """Counts what a collector has handed over, against the gradient steps that the learner has made of it.

    Args:
      ahead: batches that it may hand over while the learner still has one to learn from; 0: it waits for each.
    """

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead
        self._since: Version | None = None
        self._handed_over = 0

    def hand_over(self, version: Version) -> Version:
        """Counts one more batch; returns the version that the weights have to be newer than to go on.

        Args:
          version: of the newest weights that the collector has. A learner that began anew has the count begin anew.
        """
        if not self._ahead:
            return version
        if self._since is None or version[:2] != self._since[:2]:
            self._since, self._handed_over = version, 0
        self._handed_over += 1
        life, renewals, first = self._since
        return life, renewals, first + self._handed_over - self._ahead - 1
