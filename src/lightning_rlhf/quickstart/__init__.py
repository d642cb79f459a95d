"""Floor 4. The whole story on a world small enough for a laptop; an example to copy."""
