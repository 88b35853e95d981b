"""What a run of many processes costs, by unit of work, and what that makes of larger runs than one machine has.

Here belong the measurements of roles that work together, the model made from them and docs/scaling.md. One role by
itself belongs in `parts`; hosts and links that fail belong in `reliability`.
"""
