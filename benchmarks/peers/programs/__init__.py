"""One program a peer, run in its virtual environment: `python -m benchmarks.peers.programs.NAME --work=...`."""
