"""Plan the memory of a step before anything is loaded."""
