"""Load generator of the classifier benchmark, a process of its own."""
