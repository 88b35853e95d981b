"""Five ratios of this library to something simple beside it, and what they were: for `make bench-check`."""
