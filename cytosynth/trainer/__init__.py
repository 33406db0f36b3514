"""Generated stubs of the trainer contracts, by version."""
