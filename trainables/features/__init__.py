"""What the networks see: transforms from stored samples to tensors."""
