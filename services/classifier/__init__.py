"""Classifies single-cell images with trained classifiers."""
