"""Floor 2. One frozen base carrying roles: loading, adapters, heads, generation."""
