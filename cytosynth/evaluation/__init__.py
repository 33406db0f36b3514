"""Judges a running classifier on labelled images, from the client's side."""
