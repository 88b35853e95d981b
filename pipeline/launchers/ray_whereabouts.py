"""What the driver of a run on a Ray cluster knows of a role: where it was last heard of, and whether it is gone.

Ray itself takes a quarter of a minute to miss a node, and a run may end sooner: so whoever sends no news is looked for.
"""

import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psutil

from pipeline.launchers.ray_role import News

_DOUBT_SECONDS = 3.0
"""Without news after which it is looked whether there is still somebody to send them."""
_SILENT_SECONDS = 15.0
"""Without news after which this is said, though node and actor are there as far as anybody knows."""
_CALL_SECONDS = 1.0
"""For a node to accept a connection."""


class Role:
    """One role of the run.

    Args:
      name: such as "collector-1".
      actor: that runs it.
    """

    def __init__(self, name: str, actor: Any) -> None:
        self.name, self.actor = name, actor
        self.running: Any = None
        """Reference of how it ends; None while it does not run."""
        self.asked: Any = None
        """Reference of the next news; None if nobody has asked."""
        self.news: News | None = None
        self.heard_at = 0.0
        """Monotonic time of the newest news."""
        self.is_failing = False
        """The last question for news failed: its actor, its node or the way there is gone."""
        self.is_silent = False
        """It has sent no news for long, and that has been said."""
        self.is_away = True
        """It waits for a node to run on."""

    def start(self, replay: str) -> None:
        """Has the actor run the role, as soon as there is room for it."""
        self.running = self.actor.run.remote(replay)

    def ask(self) -> None:
        """Asks for news, unless an answer is due."""
        if self.asked is None:
            self.asked = self.actor.news.options(max_task_retries=0).remote()

    def end(self) -> None:
        """Asks the role to end."""
        self.actor.end.options(max_task_retries=0).remote()

    def hear(self, news: News) -> None:
        """Takes news."""
        self.news, self.heard_at = news, time.monotonic()
        self.is_away = self.is_failing = self.is_silent = False

    @property
    def where(self) -> str:
        """Where it was when it was last heard of."""
        assert self.news is not None
        return f"{self.news.host} (node {self.news.node[:6]})"

    def loss(self, nodes: Mapping[str, dict[str, Any]], home: str, is_last: bool) -> str:
        """How it is gone since it was last heard of, in words; empty if it is not, as far as anybody knows.

        Args:
          nodes: that are alive as far as Ray knows, by their identity.
          home: this node's.
          is_last: nobody will ask again.
        """
        assert self.news is not None
        node = nodes.get(self.news.node)
        if node is None:
            return f"is gone with {self.where}"
        if not (self.is_failing or is_last or time.monotonic() - self.heard_at > _DOUBT_SECONDS):
            return ""
        # The loss of a replay's server ends the run: Ray decides on it, who does not take a bad link for one.
        if not self.name.startswith("replay") and not _answers(node):
            return f"is gone with {self.where}"
        has_lost_its_actor = not _runs(self.news.pid) if self.news.node == home else is_last and self.is_failing
        return f"was lost with its actor on {self.where}" if has_lost_its_actor else ""

    def silence(self) -> str:
        """That it has sent no news for long, in words, once; else empty."""
        silent = time.monotonic() - self.heard_at
        if self.is_silent or silent < _SILENT_SECONDS:
            return ""
        self.is_silent = True
        return f"{self.name}, last on {self.where}, has not been heard of for {silent:.0f} s"


def _answers(node: Mapping[str, Any]) -> bool:
    """Whether Ray's process of a node accepts connections."""
    address = node["NodeManagerAddress"], node["NodeManagerPort"]
    with suppress(OSError), socket.create_connection(address, _CALL_SECONDS):
        return True
    return False


def _runs(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
