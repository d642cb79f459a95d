"""The command-line parser and its error messages."""
