"""Generated stubs of the classifier contracts, by version."""
