"""Floor 4. Several stages as one run: each a module, its data and its Trainer, or a function."""
