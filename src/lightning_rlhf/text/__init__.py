"""Files, rows and words as text: no tensors, no models."""
