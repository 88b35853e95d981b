"""Programs of the peers, each run in that peer's environment: `python -m benchmarks.peers.programs.NAME --work=...`.

They import the peer, `benchmarks.peers.works` and what several of them share here; nothing of `agents` or `pipeline`.
"""
