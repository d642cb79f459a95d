"""Constitutional AI as strings in, strings out: principles, critiques, revisions, labels, gates.

No tensors here. A model is any ``Generator``.
"""
