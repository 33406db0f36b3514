"""Synthesizes cell images with a base diffusion model and LoRA adapters."""
