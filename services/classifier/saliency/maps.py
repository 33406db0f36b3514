"""Saliency of an image's pixels for one class.

ResNets: Grad-CAM on the last stage (Selvaraju et al. 2017). CLIP: integrated gradients
(Sundararajan et al. 2017), added up over patches, as its towers differ in their layers.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from services.common.models.image_classifier import ImageClassifier
from services.common.models.resnet_classifier import ResNetClassifier

_NUM_STEPS = 8
_NUM_PATCHES = 16


def saliency_map(
    model: ImageClassifier, image_HWC: NDArray[np.uint8], class_index: int, device: torch.device
) -> NDArray[np.float32]:
    """Evidence for a class (H, W), 0 to 1; 0 without any.

    Args:
        model: In eval mode, on ``device``.
        image_HWC: RGB image as the network sees it.
        class_index: Place of the class among the logits.
        device: Device of the model.
    """
    pixels = torch.from_numpy(np.array(image_HWC)).to(device)
    x_BCHW = pixels.permute(2, 0, 1)[None].float() / 255
    if isinstance(model, ResNetClassifier):
        map_BCHW = grad_cam(model, x_BCHW, class_index)
    else:
        share = integrated_gradients(model, x_BCHW, class_index).sum(dim=1, keepdim=True)
        grid = min(_NUM_PATCHES, *share.shape[2:])
        map_BCHW = functional.adaptive_avg_pool2d(share, grid).relu()
    shown = functional.interpolate(
        map_BCHW, image_HWC.shape[:2], mode="bilinear", align_corners=False
    )
    largest = shown.max().clamp(min=1e-12)
    found: NDArray[np.float32] = (shown / largest)[0, 0].cpu().numpy()
    return found


def grad_cam(model: ResNetClassifier, x_BCHW: torch.Tensor, class_index: int) -> torch.Tensor:
    """Grad-CAM (B, 1, h, w) on the maps of the last stage."""
    with torch.no_grad():
        maps_BCHW = model.maps(x_BCHW)
    # Grad mode belongs to the thread: batches in other threads stay without gradients.
    with torch.enable_grad():
        maps_BCHW = maps_BCHW.detach().requires_grad_()
        logit = model.head(model.pooled(maps_BCHW))[:, class_index].sum()
        (gradient,) = torch.autograd.grad(logit, maps_BCHW)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * maps_BCHW.detach()).sum(dim=1, keepdim=True).relu()


def integrated_gradients(
    model: ImageClassifier, x_BCHW: torch.Tensor, class_index: int
) -> torch.Tensor:
    """Shares_1CHW of the logit's rise from the mean colour."""
    mean_BCHW = x_BCHW.mean(dim=(2, 3), keepdim=True).expand_as(x_BCHW)
    steps = (torch.arange(_NUM_STEPS, device=x_BCHW.device) + 0.5) / _NUM_STEPS
    path = mean_BCHW + steps.view(-1, 1, 1, 1) * (x_BCHW - mean_BCHW)
    with torch.enable_grad():
        path = path.detach().requires_grad_()
        logit = model.logits(path)[:, class_index].sum()
        (gradient,) = torch.autograd.grad(logit, path)
    return gradient.mean(dim=0, keepdim=True) * (x_BCHW - mean_BCHW)
