"""Runtimes of a classifier: torch, or a faster one that agrees."""
