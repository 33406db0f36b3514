"""Generated stubs of the generator contracts, by version."""
