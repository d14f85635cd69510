"""The LLaVA family: a vision tower, a connector and a causal language model, fused by putting image vectors at image tokens.

`BodaForConditionalGeneration` is transformers' LlavaForConditionalGeneration with the parts that the stock class cannot hold:
other connectors, towers that give a plane of features or several leading tokens, language models whose head scales or caps its
logits or is tied under another name. Parameter names are the stock ones. This file and the ones it imports travel inside a
saved folder, so that `from_pretrained(folder, trust_remote_code=True)` works where Boda is not installed.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import AutoModel, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaModel

from .connectors import CONNECTORS


class BodaConfig(LlavaConfig):
    """LlavaConfig and what it lacks.

    connector: a key of CONNECTORS. vision_grid: rows and columns of features that the tower gives. vision_prefix_tokens: class
    and register tokens in front of them, dropped. logits_scale, logits_softcap: what the language model's own head does.
    """

    model_type = "boda_vlm"

    connector: str = "ldpv2"
    vision_grid: list[int] | tuple[int, ...] = (24, 24)
    vision_prefix_tokens: int = 1
    logits_scale: float = 1.0
    logits_softcap: float | None = None


def head_change(logits: torch.Tensor, scale: float, softcap: float | None) -> torch.Tensor:
    """What some language models do to their logits: multiplied, then kept within +-softcap."""
    if scale != 1.0:
        logits = logits * scale
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


class LanguageHead(nn.Linear):
    """The language model's output matrix with its scale and cap (Cohere, Granite, HyperCLOVAX, Gemma)."""

    def __init__(self, size: int, vocabulary: int, scale: float = 1.0, softcap: float | None = None):
        super().__init__(size, vocabulary, bias=False)
        self.scale, self.softcap = scale, softcap

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return head_change(super().forward(hidden), self.scale, self.softcap)


def feature_size(vision_config, layer: int = -1) -> int:
    """Width of a tower's features at hidden state `layer`: `hidden_size`, or the stage's of a convolutional tower."""
    sizes = getattr(vision_config, "hidden_sizes", None)
    if not sizes:
        return vision_config.hidden_size
    return [sizes[0], *sizes][layer]  # the first hidden state is the stem's, as wide as the first stage


def features_of(tower: nn.Module, config, pixel_values: torch.Tensor) -> torch.Tensor:
    """Pixels (I, 3, H, W) -> features (I, N, D_vision) of the chosen layer, leading tokens dropped."""
    features = tower(pixel_values, output_hidden_states=True, return_dict=True).hidden_states[config.vision_feature_layer]
    if features.ndim == 4:  # a convolutional tower: (I, D, H, W)
        return features.flatten(2).transpose(1, 2)
    return features[:, config.vision_prefix_tokens :]


def own_head(language: nn.Module, config) -> tuple[LanguageHead, dict[str, str]]:
    """The head of a language model, and what it is tied to where it is: the stock class says `embed_tokens`, and GPT-NeoX calls its
    table `embed_in`."""
    text, table = config.text_config, language.get_input_embeddings()
    name = next(name for name, module in language.named_modules() if module is table)
    head = LanguageHead(text.hidden_size, text.vocab_size, config.logits_scale, config.logits_softcap)
    return head, {"lm_head.weight": f"model.language_model.{name}.weight"}


class BodaModel(LlavaModel):
    """LlavaModel with any tower and any connector."""

    config_class = BodaConfig

    def __init__(self, config: BodaConfig):
        super(LlavaModel, self).__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        connector = CONNECTORS[config.connector]
        grid = (int(config.vision_grid[0]), int(config.vision_grid[1]))
        width = feature_size(config.vision_config, config.vision_feature_layer)
        self.multi_modal_projector = connector(width, config.text_config.hidden_size, grid)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_image_features(
        self, pixel_values, vision_feature_layer=None, vision_feature_select_strategy=None, image_sizes=None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Pixels (I, 3, H, W) -> `pooler_output`: a list of I tensors (M, D_language)."""
        features = features_of(self.vision_tower, self.config, pixel_values)  # (I, N, D_vision)
        vectors = self.multi_modal_projector(features)  # (I, M, D_language)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=list(vectors))


class BodaForConditionalGeneration(LlavaForConditionalGeneration):
    """LlavaForConditionalGeneration around BodaModel, with the language model's own head."""

    config_class = BodaConfig

    def __init__(self, config: BodaConfig):
        super(LlavaForConditionalGeneration, self).__init__(config)
        self.model = BodaModel(config)
        self.lm_head, self._tied_weights_keys = own_head(self.model.language_model, config)
        self.post_init()
