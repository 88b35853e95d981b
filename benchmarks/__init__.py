"""Measurements of reverb-dqn: `python -m benchmarks.NAME`, the last line of stdout is JSON."""
