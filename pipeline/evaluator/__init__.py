"""Episodes played by a policy: evaluations with fixed seeds, the best policy, pictures, and what people watch.

Belongs here: one evaluator's work, what the learner keeps of a far one, and what `python -m pipeline.play` shows in a
window or a video beside the Q-values. The evaluator's process, from start to last report, is in `pipeline.roles`.
"""
