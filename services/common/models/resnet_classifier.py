"""ResNets as classifiers, from random weights or those of a ResNet base."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load as load_tensors
from torch import nn
from torch.nn import functional
from torchvision import models as torchvision_models

from services.common.errors import FailedPrecondition
from services.common.models.classifier_config import ClassifierConfig
from services.common.models.image_classifier import ImageClassifier
from services.common.models.resnet_bases import HEAD_PREFIX, TORCHVISION, ResNetBase

_IMAGENET_MEAN = (0.485, 0.456, 0.406)

_IMAGENET_STD = (0.229, 0.224, 0.225)


class SmallMapConv2d(nn.Conv2d):
    """A convolution that CPUs train as a matrix product on tiny maps.

    The last stage of a ResNet has maps of 2 x 2 at 64 px. There oneDNN copies each gradient of a
    kernel into another layout, which takes longer than computing it. With the kernel's rows as a
    matrix (channels last) there is no copy, and a step of ResNet-18 takes 0.8 of the time
    (docs/lab-notebook.md). Without gradients, and elsewhere, this is the plain convolution.
    """

    _MOST_POSITIONS = 4

    @classmethod
    def of(cls, conv: nn.Conv2d) -> SmallMapConv2d:
        """Takes over the kernel of ``conv``, which has neither bias nor groups."""
        # skip_init, because sampling a kernel would advance torch's global generator.
        made = nn.utils.skip_init(
            cls,
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            bias=False,
        )
        made.weight = conv.weight
        return made

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Output (B, out_channels, H', W')."""
        (kh, kw), (sh, sw) = self.kernel_size, self.stride
        ph, pw = (int(pixels) for pixels in self.padding)
        b = x_BCHW.shape[0]
        h = (x_BCHW.shape[2] + 2 * ph - kh) // sh + 1
        w = (x_BCHW.shape[3] + 2 * pw - kw) // sw + 1
        trained_on_cpu = x_BCHW.device.type == "cpu" and torch.is_grad_enabled()
        if not trained_on_cpu or h * w > self._MOST_POSITIONS:
            return super().forward(x_BCHW)
        x_BHWC = functional.pad(x_BCHW.permute(0, 2, 3, 1), (0, 0, pw, pw, ph, ph))
        patches = x_BHWC.unfold(1, kh, sh).unfold(2, kw, sw)  # (B, h, w, C, kh, kw)
        rows = patches.permute(0, 1, 2, 4, 5, 3).reshape(b * h * w, -1)
        kernel = self.weight.permute(0, 2, 3, 1).reshape(self.out_channels, -1)
        return functional.linear(rows, kernel).view(b, h, w, -1).permute(0, 3, 1, 2)


class ResNetClassifier(ImageClassifier):
    """A torchvision ResNet (He et al. 2016) with random weights."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.net = getattr(torchvision_models, config.architecture)(
            weights=None, num_classes=len(config.class_ids), zero_init_residual=True
        )
        last: nn.Sequential = self.net.layer4
        for name, module in list(last.named_modules()):
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                last.set_submodule(name, SmallMapConv2d.of(module))
        # Channels last is the layout of the fast convolutions, on CPUs and on GPUs.
        self.net = self.net.to(memory_format=torch.channels_last)

    def maps(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Maps (B, D, h, w) of the last stage."""
        x = self.normalize(images_BCHW, _IMAGENET_MEAN, _IMAGENET_STD)
        x = x.contiguous(memory_format=torch.channels_last)
        for name, layer in self.net.named_children():
            if name not in ("avgpool", "fc"):
                x = layer(x)
        return x

    def pooled(self, maps_BDHW: torch.Tensor) -> torch.Tensor:
        """Features (B, D) of ``maps``."""
        return torch.flatten(self.net.avgpool(maps_BDHW), 1)

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.pooled(self.maps(images_BCHW))

    def head(self, features_BD: torch.Tensor) -> torch.Tensor:
        return self.net.fc(features_BD).float()


def load_initial_weights(model: ImageClassifier, base: ResNetBase) -> None:
    """Loads a ResNet base's weights, all but the last layer, in place.

    Args:
        model: A ResNet of the base's architecture.
        base: Base to load; torchvision's weights are downloaded, or come from torch's cache.

    Raises:
        FailedPrecondition: If the file holds other tensors than a ResNet of that architecture has.
    """
    if base.weights.startswith(TORCHVISION):
        weights = torchvision_models.get_model_weights(base.architecture)
        found = weights[base.weights.removeprefix(TORCHVISION)].get_state_dict(check_hash=True)
        tensors = {f"net.{name}": tensor for name, tensor in found.items()}
    else:
        tensors = load_tensors(Path(base.weights).read_bytes())
    body = {name: t.float() for name, t in tensors.items() if not name.startswith(HEAD_PREFIX)}
    own = model.state_dict()
    wanted = {name: t.shape for name, t in own.items() if not name.startswith(HEAD_PREFIX)}
    if wanted != {name: t.shape for name, t in body.items()}:
        problem = f"its tensors are not those of a {base.architecture}"
        raise FailedPrecondition(f"ResNet base {base.name}", problem, "write its weights again")
    model.load_state_dict({**own, **body})
