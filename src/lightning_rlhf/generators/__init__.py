"""Generators: a role of a backbone, an HTTP endpoint, and a journal in front of either."""
