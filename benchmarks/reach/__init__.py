"""What the shipped configs reach: tasks with targets, every seed counted, and the page of results."""
