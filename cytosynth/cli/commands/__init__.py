"""The commands, one file per group; each has ``register(app)``."""
