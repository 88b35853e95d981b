"""What the trading configs earn on a held-out period, beside buy-and-hold and chance."""
