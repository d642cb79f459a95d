"""Floor 2. Constitutional AI as strings in, strings out: principles, critiques, labels, gates.

Never sees a tensor; a model is whatever answers as a ``Generator``.
"""
