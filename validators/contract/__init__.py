"""What goes into a model and what comes out: named tensors, one code path to them."""
