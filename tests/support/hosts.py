"""Hosts for tests, where there can be any."""

import pytest

from benchmarks.reliability.hosts import Host, hosts, unavailable

__all__ = ["Host", "hosts", "needs_hosts"]

needs_hosts = pytest.mark.skipif(bool(unavailable()), reason=unavailable())
