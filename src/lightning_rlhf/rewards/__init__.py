"""Sources of rewards: a role, a function, a classifier on another base, a judge."""
