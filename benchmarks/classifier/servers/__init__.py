"""Servers that the classifier benchmark compares."""
