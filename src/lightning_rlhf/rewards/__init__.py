"""Reward sources: a role, a function, a classifier, a judge."""
