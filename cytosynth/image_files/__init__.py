"""Reads image files: the right pixels, or a refusal with its reason."""
