"""Generated stubs of the common contracts, by version."""
