"""Keeps datasets, trains adapters and classifiers, writes reports."""
