"""Servers that tests call: toys, recorded stacks, real edges."""
