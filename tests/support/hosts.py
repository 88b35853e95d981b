"""Hosts for tests, where there can be any, and what passes between them, where it is installed."""

import os
import shutil

import pytest

from benchmarks.reliability.hosts import Host, hosts, unavailable

__all__ = ["Host", "hosts", "needs_haproxy", "needs_hosts"]

needs_hosts = pytest.mark.skipif(bool(unavailable()), reason=unavailable())
needs_haproxy = pytest.mark.skipif(
    shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None,
    reason="haproxy is not installed: as root, make setup installs it on Debian and Ubuntu",
)
