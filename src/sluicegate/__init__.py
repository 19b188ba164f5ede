"""Sluicegate runs medallion data pipelines and stops them cleanly."""
