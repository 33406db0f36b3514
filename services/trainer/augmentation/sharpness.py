"""Removes fine detail that another laboratory's microscope would not show.

One laboratory's optics and focus blur what another's resolve. Images in the style of a laboratory
must not be sharper, or grainier, than its own.
"""

from __future__ import annotations

import torch

_COARSEST = 6
"""Cycles per image size. Coarser structure is shape and size of cells, and stays unchanged."""
_BINS_PER_CYCLE = 2


def match_sharpness(images: torch.Tensor, examples: torch.Tensor) -> torch.Tensor:
    """Attenuates spatial frequencies in which the images exceed the examples.

    One filter for all images and directions: the square root of the ratio of the mean power
    spectra of examples and images, at most 1. Means stay unchanged, and nothing is amplified.
    The spectrum as a measure of detail: Simoncelli and Olshausen 2001, "Natural image statistics
    and neural representation".

    Args:
        images: (N, 3, S, S) in 0 to 1, all of one laboratory.
        examples: (M, 3, S, S) in 0 to 1, of the same size and the sharpness wanted.
    """
    spectrum = _spectrum(images)
    bins = _radial_bins(images.shape[-1]).to(images.device)
    wanted, found = _power(_spectrum(examples), bins), _power(spectrum, bins)
    gain = (wanted / found.clamp_min(1e-12)).sqrt().clamp(max=1.0)
    gain[: _COARSEST * _BINS_PER_CYCLE] = 1.0
    size = images.shape[-1]
    filtered = torch.fft.irfft2(spectrum * gain[bins], s=(2 * size, 2 * size))
    return filtered[..., :size, :size].clamp(0, 1)


def _spectrum(images: torch.Tensor) -> torch.Tensor:
    """Spectrum of each image tiled with mirror images, without border edges."""
    wide = torch.cat([images, images.flip(-1)], -1)
    return torch.fft.rfft2(torch.cat([wide, wide.flip(-2)], -2))


def _radial_bins(size: int) -> torch.Tensor:
    """Bin of each coefficient by its distance from frequency zero."""
    rows = torch.fft.fftfreq(2 * size, 1 / size)
    columns = torch.fft.rfftfreq(2 * size, 1 / size)
    return (torch.hypot(rows[:, None], columns) * _BINS_PER_CYCLE).round().long()


def _power(spectrum: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """Mean power in each bin, over images, channels and directions."""
    power = spectrum.abs().square().mean(dim=(0, 1)).flatten()
    flat = bins.flatten()
    total = torch.zeros(int(flat.max()) + 1, device=power.device).index_add_(0, flat, power)
    count = torch.bincount(flat).clamp_min(1)
    return total / count
