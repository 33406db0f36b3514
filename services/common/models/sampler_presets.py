"""Names of the sampler's presets: a wrong one is refused before anything is trained for it.

What each of them does is said in ``services/generator/presets.py``.
"""

SAMPLER_PRESETS = ("draft", "fast", "balanced", "paper")
