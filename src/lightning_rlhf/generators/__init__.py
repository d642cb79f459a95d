"""Language models that answer requests: a role, a server, a journal in front of either."""
