"""Names of the sampler's presets, so that the trainer refuses a wrong one at once.

``services/generator/presets.py`` defines what each preset does.
"""

SAMPLER_PRESETS = ("draft", "fast", "balanced", "paper")
