"""The published design, for `train_flamingo`: OpenFlamingo's way through a step, restated.

What differs from Boda's: texts are padded (captions to the longest of the step, documents to 256 tokens), and a document's pictures
to six with empty ones that go through tower and resampler like the others; what is seen is put on the layers as an attribute; every
token attends to the vectors of all pictures, those of others masked; logits are computed at every place. The same weights, ids,
labels, and the same parts trained. The tower is not part of the graph in either.

`python benchmarks/train_flamingo_published.py FOLDER captions|documents --steps N` trains and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPVisionModel, GPTNeoXForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent))
from common import peak_rss_mb
from train_flamingo_data import CONNECTOR, LANGUAGE, SETS, VISION, pixels_of

HEADS, HEAD_DIM, MOST_PICTURES = CONNECTOR["heads"], CONNECTOR["head_dim"], 6


def forward_half(size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(size), nn.Linear(size, 4 * size, bias=False), nn.GELU(), nn.Linear(4 * size, size, bias=False)
    )


def heads_of(states: torch.Tensor) -> torch.Tensor:
    return states.unflatten(-1, (HEADS, HEAD_DIM)).transpose(-3, -2)


class Perceive(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.norm_media, self.norm_latents = nn.LayerNorm(size), nn.LayerNorm(size)
        self.to_q = nn.Linear(size, HEADS * HEAD_DIM, bias=False)
        self.to_kv = nn.Linear(size, 2 * HEADS * HEAD_DIM, bias=False)
        self.to_out = nn.Linear(HEADS * HEAD_DIM, size, bias=False)

    def forward(self, media: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        media, latents = self.norm_media(media), self.norm_latents(latents)
        key, value = self.to_kv(torch.cat((media, latents), dim=-2)).chunk(2, dim=-1)
        query, key, value = heads_of(self.to_q(latents)) * HEAD_DIM**-0.5, heads_of(key), heads_of(value)
        similar = query @ key.transpose(-1, -2)
        similar = similar - similar.amax(dim=-1, keepdim=True).detach()
        found = similar.softmax(dim=-1) @ value
        return self.to_out(found.transpose(-3, -2).flatten(-2))


class Resampler(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(CONNECTOR["num_latents"], size))
        self.layers = nn.ModuleList(nn.ModuleList([Perceive(size), forward_half(size)]) for _ in range(CONNECTOR["depth"]))
        self.norm = nn.LayerNorm(size)

    def forward(self, media: torch.Tensor) -> torch.Tensor:  # (B, T, N, D) -> (B, T, M, D)
        latents = self.latents.expand(*media.shape[:2], -1, -1)
        for attention, forward in self.layers:
            latents = attention(media, latents) + latents
            latents = forward(latents) + latents
        return self.norm(latents)


class CrossAttend(nn.Module):
    def __init__(self, size: int, vision_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.to_q = nn.Linear(size, HEADS * HEAD_DIM, bias=False)
        self.to_kv = nn.Linear(vision_size, 2 * HEADS * HEAD_DIM, bias=False)
        self.to_out = nn.Linear(HEADS * HEAD_DIM, size, bias=False)

    def forward(self, hidden: torch.Tensor, media: torch.Tensor, locations: torch.Tensor) -> torch.Tensor:
        pictures, vectors = media.shape[1:3]
        query = heads_of(self.to_q(self.norm(hidden))) * HEAD_DIM**-0.5
        key, value = (heads_of(each) for each in self.to_kv(media.flatten(1, 2)).chunk(2, dim=-1))
        similar = query @ key.transpose(-1, -2)  # (B, H, L, T * M)
        text_time = locations.cumsum(dim=-1)[:, None, :, None]
        media_time = torch.arange(pictures, device=media.device).repeat_interleave(vectors) + 1
        similar = similar.masked_fill(text_time != media_time, -torch.finfo(similar.dtype).max)
        similar = similar - similar.amax(dim=-1, keepdim=True).detach()
        weights = similar.softmax(dim=-1).masked_fill(text_time == 0, 0.0)
        return self.to_out((weights @ value).transpose(-3, -2).flatten(-2))


class Gated(nn.Module):
    def __init__(self, size: int, vision_size: int):
        super().__init__()
        self.attn, self.ff = CrossAttend(size, vision_size), forward_half(size)
        self.attn_gate, self.ff_gate = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, hidden: torch.Tensor, media: torch.Tensor, locations: torch.Tensor) -> torch.Tensor:
        hidden = self.attn(hidden, media, locations) * self.attn_gate.tanh() + hidden
        return self.ff(hidden) * self.ff_gate.tanh() + hidden


class Layer(nn.Module):
    """A decoder layer that finds what it looks at in its own attributes."""

    def __init__(self, decoder_layer: nn.Module):
        super().__init__()
        self.cross_attention = Gated(LANGUAGE["hidden_size"], VISION["hidden_size"])
        self.decoder_layer = decoder_layer
        self.media: torch.Tensor | None = None
        self.locations: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor, **rest):
        return self.decoder_layer(self.cross_attention(hidden, self.media, self.locations), **rest)


class Published(nn.Module):
    """Tower, resampler and language model, with OpenFlamingo's forward pass."""

    def __init__(self, folder: Path):
        super().__init__()
        self.vision = CLIPVisionModel.from_pretrained(folder / "vision").eval()
        self.language = GPTNeoXForCausalLM.from_pretrained(folder / "language")
        self.resampler = Resampler(VISION["hidden_size"])
        layers = self.language.gpt_neox.layers
        for number, layer in enumerate(layers):
            layers[number] = Layer(layer)
        tensors = load_file(folder / "weights.safetensors")
        renamed = {
            "model.resampler.": "resampler.", "model.language_model.": "language.gpt_neox.", "lm_head.": "language.lm_head.",
        }  # fmt: skip
        own = {
            ours + key.removeprefix(theirs): tensor
            for theirs, ours in renamed.items()
            for key, tensor in tensors.items()
            if key.startswith(theirs)
        }
        missing, unexpected = self.load_state_dict(own, strict=False)
        assert not unexpected and all(name.startswith("vision.") for name in missing), (missing, unexpected)
        self.requires_grad_(False)
        trained = [self.resampler, *(layer.cross_attention for layer in layers), self.language.get_input_embeddings()]
        for module in trained:
            module.requires_grad_(True)

    def forward(self, pixels: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, image_id: int):
        """(B, T, 3, H, W), (B, L) thrice -> loss."""
        with torch.no_grad():
            states = self.vision(pixels.flatten(0, 1), output_hidden_states=True).hidden_states[-1][:, 1:]
        media = self.resampler(states.unflatten(0, pixels.shape[:2]))
        for layer in self.language.gpt_neox.layers:
            layer.media, layer.locations = media, ids == image_id
        loss = self.language(input_ids=ids, attention_mask=mask, labels=labels).loss
        for layer in self.language.gpt_neox.layers:
            layer.media = layer.locations = None
        return loss


def batch_of(rows: list[dict], length: int, is_documents: bool) -> tuple[torch.Tensor, ...]:
    """Pixels (B, T, 3, H, W), ids, mask, labels (B, L): padded on the right, pictures with zeros to the most there may be."""
    if not is_documents:
        length = max(len(row["input_ids"]) for row in rows)
    ids, labels, mask = (torch.full((len(rows), length), fill) for fill in (0, -100, 0))
    pixels = []
    for number, row in enumerate(rows):
        size = len(row["input_ids"])
        ids[number, :size], labels[number, :size] = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
        mask[number, :size] = 1
        seen = torch.stack([pixels_of(path) for path in row["images"]])
        if is_documents:
            seen = F.pad(seen, (0, 0, 0, 0, 0, 0, 0, MOST_PICTURES - len(seen)))
        pixels.append(seen)
    return torch.stack(pixels), ids, mask, labels


def main() -> None:
    parser = argparse.ArgumentParser(description="The published side of train_flamingo")
    parser.add_argument("folder", type=Path)
    parser.add_argument("set", choices=tuple(SETS))
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--steps", type=int, required=True)
    chosen = parser.parse_args()

    size, length, _ = SETS[chosen.set]
    facts = json.loads((chosen.folder / "facts.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (chosen.folder / f"{chosen.set}-ids.jsonl").read_text(encoding="utf-8").splitlines()]
    model = Published(chosen.folder)
    decayed = {id(p) for n, p in model.named_parameters() if "cross_attention" in n and p.ndim >= 2}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in decayed], "weight_decay": 0.1},
        {"params": [p for p in trained if id(p) not in decayed], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    table = model.language.get_input_embeddings().weight
    learns = torch.zeros(len(table), 1)
    learns[[facts["image_id"], facts["end_id"]]] = 1
    losses, ends, spent, labelled = [], [], [], []
    for step in range(chosen.warmup + chosen.steps):
        pixels, ids, mask, labels = batch_of(rows[step * size : (step + 1) * size], length, chosen.set == "documents")
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(pixels, ids, mask, labels, facts["image_id"])
        loss.backward()
        table.grad *= learns
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
        labelled.append(int((labels >= 0).sum()))
        ends.append(time.perf_counter())
        spent.append(time.process_time())
    result = {
        "samples": chosen.steps * size,
        "trained_tokens": sum(labelled[chosen.warmup :]),
        "seconds": ends[-1] - ends[chosen.warmup - 1],
        "cpu_seconds": spent[-1] - spent[chosen.warmup - 1],
        "losses": losses,
        "trained_parameters": sum(parameter.numel() for parameter in trained),
        "peak_rss_mb": peak_rss_mb(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
