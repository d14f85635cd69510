"""The Flamingo family: a language model whose layers look at pictures through cross-attention (https://arxiv.org/abs/2204.14198).

A picture is one token in the text. A perceiver resampler turns its features into a few vectors; before every n-th layer of any
causal language model a gated block lets each token attend to those of the latest picture before it, as OpenFlamingo does
(https://arxiv.org/abs/2308.01390), whose parameter names are kept. What the tokens look at travels as an argument of the layers, not
as state of the modules, so one forward pass knows nothing of another: packed rows, batches, beams, caches and recomputed
activations need nothing special. This file and the ones it imports travel inside a saved folder.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, GenerationMixin, LlavaConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.llava.modeling_llava import LlavaPreTrainedModel

from .vlm import feature_size, features_of, own_head


class BodaFlamingoConfig(LlavaConfig):
    """LlavaConfig and what it lacks.

    depth, num_latents: of the resampler. heads, head_dim: of its attention and of the cross-attention. every: a block stands before
    each so manieth layer. places: a learned vector for the place of a feature, for towers that know none. vision_grid,
    vision_prefix_tokens, logits_scale, logits_softcap: as of BodaConfig.
    """

    model_type = "boda_flamingo"

    depth: int = 6
    num_latents: int = 64
    heads: int = 8
    head_dim: int = 64
    every: int = 1
    places: bool = False
    vision_grid: list[int] | tuple[int, ...] = (16, 16)
    vision_prefix_tokens: int = 1
    logits_scale: float = 1.0
    logits_softcap: float | None = None


class Run(NamedTuple):
    """Tokens of like number that look at one picture each: a small batch of the cross-attention.

    `pictures` (P,); `tokens` (P, W) their places in the flattened batch of texts; `real` (P, W) False where a place is empty.
    """

    pictures: torch.Tensor
    tokens: torch.Tensor
    real: torch.Tensor


class Looking(NamedTuple):
    """What the tokens of a forward pass look at.

    `keys`, `values`: for each block (I, H, M, d) of I pictures' M vectors; `latest` (B, L) the picture of each token, -1 none; `runs`
    the tokens by picture, None where each row has one token, or where shapes must not depend on the text (compiled).
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]
    latest: torch.Tensor
    runs: tuple[Run, ...] | None


def feed_forward(size: int, factor: int = 4) -> nn.Sequential:
    inner = size * factor
    return nn.Sequential(nn.LayerNorm(size), nn.Linear(size, inner, bias=False), nn.GELU(), nn.Linear(inner, size, bias=False))


def split_heads(states: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, L, H * d) -> (B, H, L, d)."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """(B, H, Q, d), (B, H, K, d) twice -> (B, Q, H * d). On a CPU in fp32, which its half-precision kernel is slower than."""
    if query.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            found = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=mask)
    else:
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return found.transpose(1, 2).flatten(2).to(query.dtype)


class PerceiverAttention(nn.Module):
    """Latents attend to a picture's features and to themselves."""

    def __init__(self, size: int, heads: int, head_dim: int):
        super().__init__()
        self.heads, inner = heads, heads * head_dim
        self.norm_media, self.norm_latents = nn.LayerNorm(size), nn.LayerNorm(size)
        self.to_q = nn.Linear(size, inner, bias=False)
        self.to_kv = nn.Linear(size, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, size, bias=False)

    def forward(self, features: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """(I, N, D), (I, M, D) -> (I, M, D)."""
        features, latents = self.norm_media(features), self.norm_latents(latents)
        key, value = self.to_kv(torch.cat([features, latents], dim=1)).chunk(2, dim=-1)
        query, key, value = (split_heads(states, self.heads) for states in (self.to_q(latents), key, value))
        return self.to_out(attend(query, key, value))


class PerceiverResampler(nn.Module):
    """Features of a picture, or of all frames of a film -> `num_latents` vectors of the same width."""

    def __init__(self, size: int, depth: int, num_latents: int, heads: int, head_dim: int, places: int = 0):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(num_latents, size))
        if places:
            self.place = nn.Parameter(0.5 * torch.randn(places, size))
        blocks = ([PerceiverAttention(size, heads, head_dim), feed_forward(size)] for _ in range(depth))
        self.layers = nn.ModuleList(nn.ModuleList(block) for block in blocks)
        self.norm = nn.LayerNorm(size)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(I, N, D), or (I, F, N, D) of F frames -> (I, M, D)."""
        if hasattr(self, "place"):
            features = F.layer_norm(features, features.shape[-1:]) + self.place
        features = features.flatten(1, -2)
        latents = self.latents.to(features.dtype).expand(len(features), -1, -1)
        for attention, forward in self.layers:  # type: ignore[misc]
            latents = attention(features, latents) + latents
            latents = forward(latents) + latents
        return self.norm(latents)


class MaskedCrossAttention(nn.Module):
    """Every token attends to the vectors of the latest picture before it; one before all pictures to nothing."""

    def __init__(self, size: int, vision_size: int, heads: int, head_dim: int):
        super().__init__()
        self.heads, inner = heads, heads * head_dim
        self.norm = nn.LayerNorm(size)
        self.to_q = nn.Linear(size, inner, bias=False)
        self.to_kv = nn.Linear(vision_size, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, size, bias=False)

    def project(self, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures' vectors (I, M, D_vision) -> keys and values (I, H, M, d)."""
        key, value = self.to_kv(vectors).chunk(2, dim=-1)
        return split_heads(key, self.heads), split_heads(value, self.heads)

    def forward(self, hidden: torch.Tensor, key: torch.Tensor, value: torch.Tensor, looking: Looking) -> torch.Tensor:
        """(B, L, D) -> (B, L, D), zero where a token looks at nothing."""
        query = self.to_q(self.norm(hidden))  # (B, L, H * d)
        if looking.runs is None:
            found = self._masked(query, key, value, looking.latest)
        else:
            flat = query.flatten(0, 1)
            found = torch.zeros_like(flat)
            for run in looking.runs:
                states = split_heads(flat[run.tokens], self.heads)  # (P, H, W, d)
                found[run.tokens[run.real]] = attend(states, key[run.pictures], value[run.pictures])[run.real]
            found = found.view_as(query)
        return self.to_out(found)

    def _masked(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, latest: torch.Tensor) -> torch.Tensor:
        """Of one token a row, its picture's vectors; else all pictures', those of others masked."""
        rows, length, _ = query.shape
        states, mask = split_heads(query, self.heads), None
        if length == 1:
            key, value = key[latest[:, 0].clamp(min=0)], value[latest[:, 0].clamp(min=0)]  # (B, H, M, d)
        else:
            pictures, _, vectors, _ = key.shape
            mask = latest[..., None] == torch.arange(pictures, device=latest.device)  # (B, L, I)
            mask = (mask | (latest < 0)[..., None]).repeat_interleave(vectors, dim=2)[:, None]  # no row of a softmax is empty
            key, value = (each.transpose(0, 1).flatten(1, 2).expand(rows, -1, -1, -1) for each in (key, value))
        return attend(states, key, value, mask) * (latest >= 0)[..., None]


class GatedCrossAttention(GradientCheckpointingLayer):
    """What stands before a layer of the language model. Its gates begin at zero, so that a new one changes nothing."""

    def __init__(self, size: int, vision_size: int, heads: int, head_dim: int):
        super().__init__()
        self.attn = MaskedCrossAttention(size, vision_size, heads, head_dim)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        self.ff = feed_forward(size)
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: torch.Tensor, key=None, value=None, looking: Looking | None = None) -> torch.Tensor:
        """(B, L, D) -> (B, L, D); where there is no picture at all, only the feed-forward half adds something."""
        if looking is not None:
            hidden = self.attn(hidden, key, value, looking) * self.attn_gate.tanh() + hidden
        return self.ff(hidden) * self.ff_gate.tanh() + hidden


class LookingLayer(nn.Module):
    """A layer of the language model with a gated block before it, or none; takes `looking` out of the layer's arguments."""

    def __init__(self, decoder_layer: nn.Module, cross_attention: GatedCrossAttention | None, number: int):
        super().__init__()
        self.decoder_layer = decoder_layer
        if cross_attention is not None:
            self.cross_attention = cross_attention
        self.number = number  # of the block among all

    def forward(self, hidden_states: torch.Tensor, *args, looking: Looking | None = None, **kwargs):
        if hasattr(self, "cross_attention"):
            seen = () if looking is None else (looking.keys[self.number], looking.values[self.number], looking)
            hidden_states = self.cross_attention(hidden_states, *seen)
        # A trained block gives fp32 under autocast, and the layer's own norms may be in half precision, which go with nothing else.
        hidden_states = hidden_states.to(next(p.dtype for p in self.decoder_layer.parameters() if p.is_floating_point()))
        return self.decoder_layer(hidden_states, *args, **kwargs)

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:  # what a language model asks its layers for (`attention_type`)
            if name in ("decoder_layer", "cross_attention"):
                raise
            return getattr(super().__getattr__("decoder_layer"), name)


def put_blocks(language: nn.Module, config: BodaFlamingoConfig) -> nn.ModuleList:
    """Puts new blocks before the layers of a language model (without its head), in place, and returns these layers."""
    count = config.text_config.num_hidden_layers  # type: ignore[union-attr]
    layers = next((each for each in language.children() if isinstance(each, nn.ModuleList) and len(each) == count), None)
    if layers is None:
        raise ValueError(f"a '{language.config.model_type}' model shows no list of its {count} layers")
    width = feature_size(config.vision_config, config.vision_feature_layer)
    for index, layer in enumerate(layers):
        sizes = (config.text_config.hidden_size, width, config.heads, config.head_dim)  # type: ignore[union-attr]
        has_block = (index + 1) % config.every == 0
        block = GatedCrossAttention(*sizes).to(language.dtype) if has_block else None
        layers[index] = LookingLayer(layer, block, index // config.every)
    return layers


def new_resampler(config: BodaFlamingoConfig) -> PerceiverResampler:
    width = feature_size(config.vision_config, config.vision_feature_layer)
    places = int(config.vision_grid[0]) * int(config.vision_grid[1]) if config.places else 0
    return PerceiverResampler(width, config.depth, config.num_latents, config.heads, config.head_dim, places)


def latest_pictures(is_picture: torch.Tensor, cu_seq_lens=None, prefix=None) -> torch.Tensor:
    """Which tokens are pictures (B, L) -> for each token the number of the latest picture up to it, -1 where there is none.

    Pictures count on over the whole batch. In a packed row every segment begins with none, or with the last one of the segment that
    is its `prefix`.
    """
    count = is_picture.flatten().cumsum(0).view_as(is_picture)
    earlier = count - is_picture.long()  # pictures before a token
    if cu_seq_lens is None:
        return torch.where(count > earlier[:, :1], count - 1, -1)
    starts, lengths = cu_seq_lens[:-1].long(), cu_seq_lens.diff().long()
    first, last = earlier[0, starts], count[0, starts + lengths - 1]  # (S,)
    handed = torch.full_like(first, -1)
    if prefix is not None:
        last = torch.where(last > first, last - 1, -1)
        handed = torch.where(prefix >= 0, last[prefix.long().clamp(min=0)], handed)
    segment = torch.repeat_interleave(torch.arange(len(starts), device=starts.device), lengths)  # (L,)
    return torch.where(count > first[segment], count - 1, handed[segment])


def runs_of(latest: torch.Tensor) -> tuple[Run, ...]:
    """Tokens by the picture they look at, pictures with like numbers of tokens together: at most 7 places of one are empty."""
    flat = latest.flatten()
    tokens = (flat >= 0).nonzero()[:, 0]
    tokens = tokens[flat[tokens].argsort(stable=True)]  # (T,) by picture
    pictures, lengths = torch.unique_consecutive(flat[tokens], return_counts=True)
    starts = lengths.cumsum(0) - lengths
    width, runs = (lengths + 7) // 8, []
    for number in width.unique().tolist():
        chosen = width == number
        place = torch.arange(int(lengths[chosen].max()), device=flat.device)
        real = place < lengths[chosen, None]
        runs.append(Run(pictures[chosen], tokens[starts[chosen, None] + torch.where(real, place, 0)], real))
    return tuple(runs)


class BodaFlamingoModel(LlavaPreTrainedModel):
    """Vision tower, resampler, and a language model with cross-attention, without its head."""

    config_class = BodaFlamingoConfig

    def __init__(self, config: BodaFlamingoConfig):
        super().__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.resampler = new_resampler(config)
        self.language_model = AutoModel.from_config(config.text_config)
        put_blocks(self.language_model, config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def blocks(self) -> list[GatedCrossAttention]:
        """The blocks of cross-attention, in order."""
        return [module for module in self.language_model.modules() if isinstance(module, GatedCrossAttention)]

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        """Pixels (I, 3, H, W), or (I, F, 3, H, W) of films with F frames -> `pooler_output` (I, M, D_vision)."""
        features = features_of(self.vision_tower, self.config, pixel_values.flatten(0, -4))  # (I * F, N, D)
        features = features.unflatten(0, pixel_values.shape[:-3])  # (I, N, D) or (I, F, N, D)
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=self.resampler(features))

    def look(self, pixel_values: torch.Tensor, input_ids: torch.Tensor, cu_seq_lens=None, prefix=None) -> Looking:
        """Pixels of I pictures, and the ids that they stand in (B, L) -> what all layers need to know of them.

        Raises ValueError where the numbers of pictures and of their tokens differ.
        """
        is_picture = input_ids == self.config.image_token_index
        if (tokens := int(is_picture.sum())) != len(pixel_values):
            raise ValueError(f"{len(pixel_values)} pictures for {tokens} image tokens")
        latest = latest_pictures(is_picture, cu_seq_lens, prefix)
        vectors = self.get_image_features(pixel_values).pooler_output
        keys, values = zip(*(block.attn.project(vectors) for block in self.blocks()))
        return Looking(keys, values, latest, None)

    def forward(
        self, input_ids=None, pixel_values=None, attention_mask=None, looking: Looking | None = None, **kwargs
    ) -> BaseModelOutputWithPast:
        """Ids (B, L), one token a picture, and the pictures' pixels in the order of their tokens -> features of every token.

        `looking`: in place of pixels, what an earlier pass saw, with `latest` of these tokens. `cu_seq_lens`, `prefix`: as of the
        attention function. Raises ValueError where the numbers of pictures and of their tokens differ.
        """
        if pixel_values is not None and looking is None:
            looking = self.look(pixel_values, input_ids, kwargs.get("cu_seq_lens"), kwargs.get("prefix"))
        if looking is not None and looking.latest.shape[1] > 1 and not torch.compiler.is_compiling():
            looking = looking._replace(runs=runs_of(looking.latest))
        return self.language_model(input_ids=input_ids, attention_mask=attention_mask, looking=looking, **kwargs)


class BodaFlamingoForConditionalGeneration(LlavaPreTrainedModel, GenerationMixin):
    """BodaFlamingoModel with the language model's own head."""

    config_class = BodaFlamingoConfig

    def __init__(self, config: BodaFlamingoConfig):
        super().__init__(config)
        self.model = BodaFlamingoModel(config)
        self.lm_head, self._tied_weights_keys = own_head(self.model.language_model, config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutputWithPooling:
        return self.model.get_image_features(pixel_values)

    def forward(
        self,
        input_ids=None,
        pixel_values=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        looking=None,
        labels=None,
        logits_to_keep=0,
        use_cache=None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """As of any causal language model; `pixel_values` and `looking` as of BodaFlamingoModel."""
        kwargs |= {"past_key_values": past_key_values, "inputs_embeds": inputs_embeds, "use_cache": use_cache}
        outputs = self.model(input_ids, pixel_values, attention_mask, looking, position_ids=position_ids, **kwargs)
        hidden = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits, loss = self.lm_head(hidden[:, kept]), None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def generate(self, inputs=None, pixel_values=None, **kwargs):
        """As of any language model. The pictures are looked at once, before beams are made of the rows."""
        if pixel_values is not None:
            with torch.no_grad():
                looking = self.model.look(pixel_values, kwargs.get("input_ids") if inputs is None else inputs)
            kwargs |= {"looking": looking, "latest": looking.latest}
        return super().generate(inputs, **kwargs)

    def prepare_inputs_for_generation(self, input_ids, looking: Looking | None = None, latest=None, **kwargs):
        """`latest` (B, L) is of the prompt, and grows with the beams; a new token looks where the last one of its row did."""
        prepared = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if looking is not None:
            new = latest[:, -1:].expand(-1, input_ids.shape[1] - latest.shape[1])
            length = prepared["input_ids"].shape[1]
            prepared["looking"] = looking._replace(latest=torch.cat([latest, new], dim=1)[:, -length:])
        return prepared
