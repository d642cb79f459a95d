"""Floor 2. From files to batches: formats, templates, tokens, collation, DataModules.

Never sees a model.
"""
