"""Range of the seeds that requests carry."""

MAX_SEED = 2**63 - 1
"""Largest seed of a request: protos carry int64."""
