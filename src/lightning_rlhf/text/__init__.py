"""Files, rows, messages and words as text: no tensors, no models."""
