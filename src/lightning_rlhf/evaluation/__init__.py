"""Floor 3. Figures about a trained role, and the report that shows them."""
