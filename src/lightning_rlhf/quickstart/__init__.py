"""Every method on a toy world that is small enough for a laptop; an example to copy."""
