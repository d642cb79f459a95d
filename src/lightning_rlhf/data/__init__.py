"""From files to batches: formats, templates, tokens, collation, DataModules. No model is used."""
