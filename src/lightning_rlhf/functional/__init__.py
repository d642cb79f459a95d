"""Floor 0. Tensors in, tensors out: no model, no tokenizer, no Trainer."""
