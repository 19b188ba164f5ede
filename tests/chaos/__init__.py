"""Chaos on the real thing: servers, workers and a database are killed and paused at random, and judged afterwards.

`checker`, `history`, `records`, `survivors` and `truth` import nothing of Sluicegate: they read the tables' logs, the
rows of the store and `/proc` for themselves. docs/chaos.md says what is proved, and how to run it.
"""
