"""What the training engine is compared with."""
