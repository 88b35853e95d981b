"""What a run of many processes costs, by unit of work, and what that makes of larger runs than one machine has."""
