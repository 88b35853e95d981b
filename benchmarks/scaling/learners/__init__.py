"""Several learners that share each batch: when they pay, by step time and link, and what local steps do to learning.

Belongs here: what measures it, the model, and their tables in docs/scaling.md. What learners do is the pipeline's.
"""
