"""Sharpness: images lose the fine detail that another microscope would not show.

One laboratory's optics and focus blur what another's resolve, so images that are to pass for those
of a laboratory must not be sharper, or grainier, than its own.
"""

from __future__ import annotations

import torch

_COARSEST = 6
"""Cycles per side. What is coarser is shape and size of cells, and stays as it is."""
_BINS_PER_CYCLE = 2


def match_sharpness(images: torch.Tensor, examples: torch.Tensor) -> torch.Tensor:
    """Takes from images, at each spatial frequency, what they have more of than the examples.

    A filter that is the same for all images and directions: the square root of the ratio of both
    sides' mean power spectra, at most 1. So means stay as they are, and nothing is amplified.
    (That the spectrum says how fine an image's detail is: Simoncelli and Olshausen 2001, "Natural
    image statistics and neural representation".)

    Args:
        images: (N, 3, S, S) in 0 to 1, all of one laboratory.
        examples: (M, 3, S, S) in 0 to 1, of the same side, as sharp as the images shall be.
    """
    spectrum = _spectrum(images)
    bins = _radial_bins(images.shape[-1]).to(images.device)
    wanted, found = _power(_spectrum(examples), bins), _power(spectrum, bins)
    gain = (wanted / found.clamp_min(1e-12)).sqrt().clamp(max=1.0)
    gain[: _COARSEST * _BINS_PER_CYCLE] = 1.0
    side = images.shape[-1]
    filtered = torch.fft.irfft2(spectrum * gain[bins], s=(2 * side, 2 * side))
    return filtered[..., :side, :side].clamp(0, 1)


def _spectrum(images: torch.Tensor) -> torch.Tensor:
    """Of images and their mirror images side by side, so that borders are no edges."""
    wide = torch.cat([images, images.flip(-1)], -1)
    return torch.fft.rfft2(torch.cat([wide, wide.flip(-2)], -2))


def _radial_bins(side: int) -> torch.Tensor:
    """Bin of each coefficient by its distance from frequency zero."""
    rows = torch.fft.fftfreq(2 * side, 1 / side)
    columns = torch.fft.rfftfreq(2 * side, 1 / side)
    return (torch.hypot(rows[:, None], columns) * _BINS_PER_CYCLE).round().long()


def _power(spectrum: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """Mean power in each bin, over images, channels and directions."""
    power = spectrum.abs().square().mean(dim=(0, 1)).flatten()
    flat = bins.flatten()
    total = torch.zeros(int(flat.max()) + 1, device=power.device).index_add_(0, flat, power)
    count = torch.bincount(flat).clamp_min(1)
    return total / count
