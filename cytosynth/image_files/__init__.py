"""Reads image files: the right pixels, or a refusal that names the reason and the remedy."""
