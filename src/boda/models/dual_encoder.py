"""The KoCLIP family: an image tower and a text tower whose pooled vectors are projected into one space and compared.

`BodaDualEncoderModel` is transformers' VisionTextDualEncoderModel with what the stock class cannot hold: towers that return no
pooled vector, and the bias of the sigmoid loss (SigLIP, https://arxiv.org/abs/2303.15343). Parameter names are the stock ones.
This file travels inside a saved folder, so that `from_pretrained(folder, trust_remote_code=True)` works without Boda.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from transformers import VisionTextDualEncoderConfig, VisionTextDualEncoderModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput


class BodaDualEncoderConfig(VisionTextDualEncoderConfig):
    """VisionTextDualEncoderConfig and what it lacks.

    vision_pooling: `pooler` (what the tower returns) or `mean`. text_pooling: `pooler`, or the `mean` or `last` of the last
    layer's tokens. has_logit_bias: the sigmoid loss's bias is a parameter.
    """

    model_type = "boda_dual_encoder"

    vision_pooling: str = "pooler"
    text_pooling: str = "mean"
    has_logit_bias: bool = False


class BodaDualEncoderModel(VisionTextDualEncoderModel):
    """VisionTextDualEncoderModel with other poolings and a logit bias."""

    config_class = BodaDualEncoderConfig

    def __init__(self, config: BodaDualEncoderConfig | None = None, vision_model=None, text_model=None):
        super().__init__(config, vision_model, text_model)
        if self.config.has_logit_bias:
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def get_image_features(self, pixel_values, **kwargs) -> BaseModelOutputWithPooling:
        """Pixels (I, 3, H, W) -> `pooler_output` (I, P), not normalised."""
        outputs = self.vision_model(pixel_values=pixel_values, return_dict=True, **kwargs)
        states = outputs.last_hidden_state  # (I, N, D), or a plane (I, D, H, W)
        if self.config.vision_pooling == "pooler":
            vectors = outputs.pooler_output.flatten(1)  # ResNet's is (I, D, 1, 1)
        else:
            vectors = states.flatten(2).mean(2) if states.ndim == 4 else states.mean(1)
        return BaseModelOutputWithPooling(states, self.visual_projection(vectors))

    def get_text_features(self, input_ids, attention_mask=None, **kwargs) -> BaseModelOutputWithPooling:
        """Token ids (T, L) and their mask -> `pooler_output` (T, P), not normalised."""
        given = {name: value for name, value in kwargs.items() if value is not None}
        outputs = self.text_model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **given)
        states, real = outputs.last_hidden_state, attention_mask
        real = torch.ones_like(input_ids) if real is None else real
        if self.config.text_pooling == "pooler":
            vectors = outputs.pooler_output
        elif self.config.text_pooling == "mean":
            vectors = (states * real[:, :, None].to(states.dtype)).sum(1) / real.sum(1, keepdim=True)
        else:
            place = torch.arange(real.shape[1], device=real.device)
            vectors = states[torch.arange(len(real), device=real.device), (place * real).argmax(1)]
        return BaseModelOutputWithPooling(states, self.text_projection(vectors))

    def forward(
        self, input_ids=None, pixel_values=None, attention_mask=None, position_ids=None, return_loss=None, **kwargs
    ) -> CLIPOutput:
        """As the stock class; with a bias the loss is SigLIP's: the sum over all pairs, divided by the number of texts."""
        image = F.normalize(self.get_image_features(pixel_values).pooler_output, dim=-1)
        text = self.get_text_features(input_ids, attention_mask, position_ids=position_ids, **kwargs).pooler_output
        text = F.normalize(text, dim=-1)
        logits, loss = text @ image.T * self.logit_scale.exp(), None  # (T, I)
        if self.config.has_logit_bias:
            logits = logits + self.logit_bias
        if return_loss and self.config.has_logit_bias:
            loss = F.softplus(-logits * (2 * torch.eye(len(logits), device=logits.device) - 1)).sum() / len(logits)
        elif return_loss:
            own = torch.arange(len(logits), device=logits.device)
            loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        return CLIPOutput(loss, logits.T, logits, text, image)
