"""What the trading configs earn on a held-out period, beside buy-and-hold and chance; writes docs/trading.md.

Here belong the walks through prices and their tables. The trading environment itself is the product's.
"""
