"""Servers that the classifier benchmark compares, each in a file of its own."""
