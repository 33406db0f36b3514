"""What computes a classifier: torch, or a faster runtime that agrees with it."""
