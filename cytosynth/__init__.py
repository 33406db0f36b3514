"""Cytosynth: LoRA diffusion synthesis of single white blood cells for AML diagnosis."""
