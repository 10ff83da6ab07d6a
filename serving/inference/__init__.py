"""The facility's inference server and its client: models by digest, tensors in binary."""
