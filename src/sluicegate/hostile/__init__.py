"""Pipelines that do all they can not to be stopped: what `sluicegate verify-stop` runs."""
