"""Names of the sampler's presets, which the trainer checks at once.

``services/generator/presets.py`` defines what each preset does.
"""

SAMPLER_PRESETS = ("draft", "fast", "balanced", "paper")
