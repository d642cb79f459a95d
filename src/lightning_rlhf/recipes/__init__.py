"""Recipes: several stages as one run, each a module with its data and Trainer, or a function."""
