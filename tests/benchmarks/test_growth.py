"""Curves of growth: knees and powers by hand, and one small curve measured for real."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scaling.growth import curves, report
from benchmarks.scaling.growth.point import width_of
from benchmarks.scaling.results import Measurement

ROOT = Path(__file__).resolve().parents[2]


def test_work_that_grows_with_the_size_alone_is_linear() -> None:
    assert curves.exponent(10, 100, 3.0, 3.0) == pytest.approx(1.0)
    assert curves.exponent(10, 100, 3.0, 30.0) == pytest.approx(2.0)
    assert curves.exponent(10, 100, 3.0, 0.3) == pytest.approx(0.0)
    assert curves.superlinear({10: 3.0, 100: 1.0, 1_000: 1.1, 10_000: 2.0}) == [(1_000, 10_000)]


@pytest.mark.parametrize(
    ("costs", "found"),
    [
        ({1: 8.0, 4: 2.2, 16: 2.0, 64: 2.1}, (4, None)),
        ({1: 8.0, 4: 2.2, 16: 2.0, 64: 2.6}, (4, 64)),
        ({1: 1.0, 4: 1.3, 16: 4.0}, (1, 4)),
        ({1: 1.0}, (1, None)),
    ],
)
def test_the_knee_is_where_a_unit_has_become_cheap_and_its_end_where_it_is_dearer(
    costs: dict[int, float], found: tuple[int, int | None]
) -> None:
    assert curves.knee(costs) == found


@pytest.mark.parametrize("size", [10**4, 10**5, 10**6, 10**7])
def test_networks_have_about_as_many_weights_as_they_are_named_for(size: int) -> None:
    width = width_of(size)
    assert 4 * width + width + width * width + width + 2 * width + 2 == pytest.approx(size, rel=0.03)


def test_the_page_has_a_row_for_each_figure_and_a_panel_for_each_curve(tmp_path: Path) -> None:
    (tmp_path / "performance.md").write_text("# Speed\n\n<!-- growth: begin -->\n<!-- growth: end -->\n")
    seen = [
        Measurement(curve.name, str(size), repeat, dict.fromkeys(curve.units, 2.0 + size), "", "")
        for curve in curves.CURVES
        for repeat in range(3)
        for size in curve.sizes[:2]
    ]
    report.write(seen, tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert all(text.count(f"| {said} |") == 1 for curve in curves.CURVES for said in curve.units.values())
    assert (tmp_path / "images" / "growth.png").stat().st_size > 1_000


@pytest.mark.slow
def test_a_small_curve_is_measured(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "benchmarks.scaling.growth", "--curves=weights", "--largest=10000", "--docs="]
    line += ["--seconds=0.05", "--repeats=2", f"--results={tmp_path / 'results.jsonl'}"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    costs = json.loads(done.stdout.splitlines()[-1])["weights"]["10000"]
    assert set(costs) == {"gradient", "publish"}
    assert all(cost > 0.0 for cost in costs.values())


def test_what_is_no_curve_is_refused_in_a_line() -> None:
    line = [sys.executable, "-m", "benchmarks.scaling.growth", "--curves=colour"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "colour unknown" in done.stderr
