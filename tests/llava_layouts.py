"""A tiny LLaVA of known parts, written the way LLaVA's own code and two generations of transformers write theirs.

Keys are spelled out here from those projects' files, and the model's logits are worked out from the parts, not by the library.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, CLIPVisionModel

from tests import tiny

VISION_SIZE, LANGUAGE_SIZE, GRID = 32, 48, 4
# Our words for a connector's tensors -> LLaVA's, after `mm_projector.`
PROJECTOR_KEYS = {
    "linear": {"first.weight": "weight", "first.bias": "bias"},
    "mlp2x_gelu": {"first.weight": "0.weight", "first.bias": "0.bias", "second.weight": "2.weight", "second.bias": "2.bias"},
    "ldpnetv2": {
        "first.weight": "mlp.mlp.0.weight",
        "first.bias": "mlp.mlp.0.bias",
        "second.weight": "mlp.mlp.2.weight",
        "second.bias": "mlp.mlp.2.bias",
        "conv.weight": "peg.peg.0.weight",
        "conv.bias": "peg.peg.0.bias",
    },
}


class Llava:
    """The parts: state dicts of a language model, of a whole CLIP tower, and of a connector."""

    def __init__(self, connector: str = "mlp2x_gelu", language: str = "llama2", language_folder: Path | None = None):
        self.kind = connector
        self.language_folder = language_folder or tiny.language_folder(language)
        self.vision_folder = tiny.vision_folder("clip_vision")
        self.language = load_file(self.language_folder / "model.safetensors")
        self.vision = load_file(self.vision_folder / "model.safetensors")
        random = torch.Generator().manual_seed(5)
        shapes = {"first.weight": (LANGUAGE_SIZE, VISION_SIZE), "first.bias": (LANGUAGE_SIZE,)}
        if connector != "linear":
            shapes |= {"second.weight": (LANGUAGE_SIZE, LANGUAGE_SIZE), "second.bias": (LANGUAGE_SIZE,)}
        if connector == "ldpnetv2":
            shapes |= {"conv.weight": (LANGUAGE_SIZE, 1, 3, 3), "conv.bias": (LANGUAGE_SIZE,)}
        self.connector = {name: torch.randn(shape, generator=random) * 0.3 for name, shape in shapes.items()}

    @property
    def tokens(self) -> int:
        return (GRID // 2) ** 2 if self.kind == "ldpnetv2" else GRID**2

    def config(self) -> dict:
        return json.loads((self.language_folder / "config.json").read_text(encoding="utf-8"))

    def projector(self, prefix: str) -> dict[str, torch.Tensor]:
        return {f"{prefix}mm_projector.{PROJECTOR_KEYS[self.kind][name]}": value for name, value in self.connector.items()}

    def vectors(self, pixels: torch.Tensor) -> torch.Tensor:
        """(I, 3, H, W) -> (I, M, D): the tower's last hidden state but one without its class token, through the connector."""
        tower = CLIPVisionModel.from_pretrained(self.vision_folder).eval()
        tower.load_state_dict(self.vision)
        states = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        given = self.connector
        found = states @ given["first.weight"].T + given["first.bias"]
        if self.kind != "linear":
            found = F.gelu(found) @ given["second.weight"].T + given["second.bias"]
        if self.kind == "ldpnetv2":
            plane = found.transpose(1, 2).reshape(len(pixels), LANGUAGE_SIZE, GRID, GRID)
            plane = (plane[..., 0::2, :] + plane[..., 1::2, :]) / 2
            plane = (plane[..., 0::2] + plane[..., 1::2]) / 2
            plane = plane + F.conv2d(plane, given["conv.weight"], given["conv.bias"], padding=1, groups=LANGUAGE_SIZE)
            found = plane.flatten(2).transpose(1, 2)
        return found

    @torch.no_grad()
    def logits(self, ids: torch.Tensor, image_id: int, pixels: torch.Tensor | None = None) -> torch.Tensor:
        """(1, L) ids with the image token in the place of each vector of a picture -> (1, L, V)."""
        model = AutoModelForCausalLM.from_pretrained(self.language_folder, dtype=torch.float32).eval()
        model.load_state_dict(self.language, strict=False)
        model.tie_weights()
        embedded = model.get_input_embeddings()(ids.masked_fill(ids == image_id, 0))
        if pixels is not None:
            embedded[ids == image_id] = self.vectors(pixels).flatten(0, 1)
        return model(inputs_embeds=embedded).logits


def write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def copy_tokenizer(llava: Llava, folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (llava.language_folder / name).is_file():
            shutil.copy(llava.language_folder / name, folder / name)


def llava_config(llava: Llava, model_type: str = "llava_llama", **changes) -> dict:
    return {
        **llava.config(),
        "model_type": model_type,
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_tower": str(llava.vision_folder),
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": llava.kind,
        "mm_hidden_size": VISION_SIZE,
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "square",
        "tokenizer_model_max_length": 2048,
        "tune_mm_mlp_adapter": False,
        "use_mm_proj": True,
        **changes,
    }


def write_projector(llava: Llava, folder: Path, prefix: str = "model.", config: dict | None = None) -> Path:
    """What the first stage leaves."""
    folder.mkdir(parents=True)
    torch.save(llava.projector(prefix), folder / "mm_projector.bin")
    if config is not None:
        write_json(folder / "config.json", config)
    return folder


def write_whole(
    llava: Llava,
    folder: Path,
    model_type: str = "llava_llama",
    shards: int = 1,
    safe: bool = False,
    vision: bool = False,
    **changes,
) -> Path:
    """A full folder of LLaVA."""
    folder.mkdir(parents=True)
    copy_tokenizer(llava, folder)
    write_json(folder / "config.json", llava_config(llava, model_type, **changes))
    tensors = llava.language | llava.projector("model.")
    if vision:
        tensors |= {f"model.vision_tower.vision_tower.vision_model.{key}": value for key, value in llava.vision.items()}
    save = (lambda part, path: save_file(part, path)) if safe else torch.save
    stem, end = ("model", ".safetensors") if safe else ("pytorch_model", ".bin")
    if shards == 1:
        save(tensors, folder / f"{stem}{end}")
        return folder
    keys = sorted(tensors)
    names = {number: f"{stem}-{number + 1:05d}-of-{shards:05d}{end}" for number in range(shards)}
    for number, name in names.items():
        save({key: tensors[key] for key in keys[number::shards]}, folder / name)
    weight_map = {key: names[index % shards] for index, key in enumerate(keys)}
    write_json(folder / f"{stem}{end}.index.json", {"metadata": {}, "weight_map": weight_map})
    return folder


def write_adapter(llava: Llava, folder: Path, base: str | None, safe: bool = True, **changes) -> Path:
    """A LoRA folder. The parts given are changed to those of the merged model."""
    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(6)
    rank, alpha, tensors = 4, 6, {}
    for key, weight in list(llava.language.items()):
        name = key.removesuffix(".weight")
        if not name.endswith(("q_proj", "v_proj", "down_proj")):
            continue
        down = torch.randn(rank, weight.shape[1], generator=random) * 0.2
        up = torch.randn(weight.shape[0], rank, generator=random) * 0.2
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = up
        llava.language[key] = weight + up @ down * (alpha / rank)
    adapter = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank, "lora_alpha": alpha}
    targets = ["q_proj", "v_proj", "down_proj"]
    write_json(folder / "adapter_config.json", adapter | {"target_modules": targets, "lora_dropout": 0.05, "bias": "none"})
    if safe:
        save_file(tensors, folder / "adapter_model.safetensors")
    else:
        torch.save(tensors, folder / "adapter_model.bin")
    torch.save(llava.projector("base_model.model.model."), folder / "non_lora_trainables.bin")
    write_json(folder / "config.json", llava_config(llava, **changes))
    return folder


def write_transformers(llava: Llava, folder: Path, new: bool, tied: bool = False) -> Path:
    """A folder of LlavaForConditionalGeneration, before (`new` false) or after transformers 4.52."""
    folder.mkdir(parents=True)
    vision = json.loads((llava.vision_folder / "config.json").read_text(encoding="utf-8"))
    shutil.copy(llava.vision_folder / "preprocessor_config.json", folder)
    copy_tokenizer(llava, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
        "{% for part in message['content'] %}{{ '<image>\\n' if part['type'] == 'image' else part['text'] }}{% endfor %} "
        "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": 7,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vision_config": vision,
        "text_config": llava.config(),
    }
    write_json(folder / "config.json", config)
    tensors = {}
    for key, value in llava.language.items():
        if new:
            tensors[key if key.startswith("lm_head.") else "model.language_model." + key.removeprefix("model.")] = value
        else:
            tensors["language_model." + key] = value
    start = "model." if new else ""
    tensors |= {f"{start}vision_tower.vision_model.{key}": value for key, value in llava.vision.items()}
    names = {"first.weight": "linear_1.weight", "first.bias": "linear_1.bias"}
    names |= {"second.weight": "linear_2.weight", "second.bias": "linear_2.bias"}
    tensors |= {f"{start}multi_modal_projector.{names[name]}": value for name, value in llava.connector.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
