"""The trainer: keeps datasets, trains adapters and classifiers, writes reports."""
