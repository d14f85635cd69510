"""Connectors: features of a picture's patches -> vectors in the language model's space.

A connector is built from (vision size, language size, grid of patches), maps (B, N, D_vision) -> (B, M, D_language) and says
with `num_tokens(grid)` how many vectors M an image becomes, so that the processor can make room before the forward pass.
To add one: a short class here and a line in CONNECTORS.
"""

from __future__ import annotations

import torch
from torch import nn


class Linear(nn.Module):
    """One matrix, as in the first LLaVA (https://arxiv.org/abs/2304.08485)."""

    def __init__(self, vision_size: int, language_size: int, grid: tuple[int, int]):
        super().__init__()
        self.linear_1 = nn.Linear(vision_size, language_size)

    @staticmethod
    def num_tokens(grid: tuple[int, int]) -> int:
        return grid[0] * grid[1]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_1(features)  # (B, N, D_language)


class Mlp2xGelu(Linear):
    """Two matrices with an exact GELU between, as in LLaVA-1.5 (https://arxiv.org/abs/2310.03744)."""

    def __init__(self, vision_size: int, language_size: int, grid: tuple[int, int]):
        super().__init__(vision_size, language_size, grid)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(language_size, language_size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(features)))  # (B, N, D_language)


class _Mlp(nn.Module):
    def __init__(self, vision_size: int, language_size: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(vision_size, language_size), nn.GELU(), nn.Linear(language_size, language_size))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.mlp(features)


class _PositionConvolution(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.peg = nn.Sequential(nn.Conv2d(size, size, kernel_size=3, stride=1, padding=1, groups=size))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.peg(features) + features


class Ldpv2(nn.Module):
    """MLP, 2x average pooling, depthwise 3x3 convolution with residual: 576 patches -> 144 tokens.

    The LDPv2 of MobileVLM V2 (https://arxiv.org/abs/2402.03766), which the Small Korean VLM uses; its parameter names are kept
    (`mlp.mlp.{0,2}`, `peg.peg.0`). On an odd side the pooling windows overlap (27 -> 14), as adaptive pooling does.
    """

    def __init__(self, vision_size: int, language_size: int, grid: tuple[int, int]):
        super().__init__()
        self.grid = (grid[0], grid[1])
        self.mlp = _Mlp(vision_size, language_size)
        self.pool = nn.AdaptiveAvgPool2d(self.pooled(self.grid))
        self.peg = _PositionConvolution(language_size)

    @staticmethod
    def pooled(grid: tuple[int, int]) -> tuple[int, int]:
        return (grid[0] + 1) // 2, (grid[1] + 1) // 2

    @classmethod
    def num_tokens(cls, grid: tuple[int, int]) -> int:
        height, width = cls.pooled(grid)
        return height * width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = self.mlp(features)  # (B, N, D)
        batch, _, size = features.shape
        plane = features.transpose(1, 2).reshape(batch, size, *self.grid)  # (B, D, H, W)
        plane = self.peg(self.pool(plane))  # (B, D, H/2, W/2)
        return plane.flatten(2).transpose(1, 2)  # (B, M, D)


class PlacedMlp(nn.Module):
    """Features normalised, a learned vector for their place added, then two matrices with a GELU between.

    For towers that neither normalise their last features nor know places (convolutional ones). Without the norm the vectors
    grow to a hundred times the length of words, so that no layer of the language model can add anything to them; without
    places it can find an object and not say where it lies.
    """

    def __init__(self, vision_size: int, language_size: int, grid: tuple[int, int]):
        super().__init__()
        self.norm = nn.LayerNorm(vision_size)
        self.place = nn.Parameter(0.5 * torch.randn(grid[0] * grid[1], vision_size))
        self.linear_1 = nn.Linear(vision_size, language_size)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(language_size, language_size)

    @staticmethod
    def num_tokens(grid: tuple[int, int]) -> int:
        return grid[0] * grid[1]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(self.act(self.linear_1(self.norm(features) + self.place)))  # (B, N, D_language)


CONNECTORS: dict[str, type[nn.Module]] = {"linear": Linear, "mlp2x_gelu": Mlp2xGelu, "ldpv2": Ldpv2, "placed_mlp": PlacedMlp}
