"""The reader of PromQL expressions that the tests of dashboards use."""

import pytest
from promql import reads


@pytest.mark.parametrize(
    ("expression", "metrics", "matched", "grouped"),
    [
        ("up", {"up"}, set(), set()),
        ('up{job="a", role=~"b|c"}', {"up"}, {("up", "job"), ("up", "role")}, set()),
        ("sum by (run, role) (rate(a_total[5m]))", {"a_total"}, set(), {"run", "role"}),
        ("sum(a) by (run) / on (run) group_left (role) b{x!='y'}", {"a", "b"}, {("b", "x")}, {"run", "role"}),
        ("max without(index) (a offset 5m) > bool 1e3 and b", {"a", "b"}, set(), {"index"}),
        ('time() - a{l="sum by (z) (b)"}', {"a"}, {("a", "l")}, set()),
        ("histogram_quantile(0.9, a) or clamp_max(b, 1) unless c", {"a", "b", "c"}, set(), set()),
        ("changes(a[$__rate_interval]) + avg_over_time(b[1h:5m])", {"a", "b"}, set(), set()),
    ],
)
def test_what_is_read(expression: str, metrics: set[str], matched: set[tuple[str, str]], grouped: set[str]) -> None:
    found = reads(expression)
    assert (found.metrics, found.matched, found.grouped) == (metrics, matched, grouped)


@pytest.mark.parametrize("expression", ["sum(a", "a}", "a[5m", "rate(a])", "a ~ b", 'a{b="c}'])
def test_what_cannot_be_read_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"not PromQL|closed|closes"):
        reads(expression)
