"""Model folders: write one that stock transformers loads, and load one by what its config says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_torchvision_available

from boda.errors import BodaError
from boda.files import read_json, whole_folder, write_json
from boda.models.dual_encoder import BodaDualEncoderConfig, BodaDualEncoderModel
from boda.models.flamingo import BodaFlamingoConfig, BodaFlamingoForConditionalGeneration
from boda.models.language import MADE_BY_THE_RECIPE, apply_adapter
from boda.models.loading import load_whole, loading, locate, place_of, quiet_loading
from boda.models.vlm import BodaConfig, BodaForConditionalGeneration

VLM_FILES = ("vlm.py", "connectors.py")
# Class -> its config, which of transformers' classes loads it, and the files that travel with a folder, its own code the first.
REMOTE_CODE: dict[type, tuple[Any, Any, tuple[str, ...]]] = {
    BodaForConditionalGeneration: (BodaConfig, AutoModelForImageTextToText, VLM_FILES),
    BodaFlamingoForConditionalGeneration: (BodaFlamingoConfig, AutoModelForImageTextToText, ("flamingo.py", *VLM_FILES)),
    BodaDualEncoderModel: (BodaDualEncoderConfig, AutoModel, ("dual_encoder.py",)),
}
for _model, (_config, _loader, _) in REMOTE_CODE.items():
    AutoConfig.register(_config.model_type, _config)
    _loader.register(_config, _model)
VLM_TYPES = {"llava", BodaConfig.model_type, BodaFlamingoConfig.model_type}


def best_dtype(device: torch.device, precision: str = "auto") -> torch.dtype:
    """The type for weights that are not trained: bf16 where the hardware has it, else fp16 on GPUs and fp32 on CPUs; so too beside
    matrices of 8 or 4 bits.

    fp16 on a CPU is slower than fp32 by an order of magnitude or more, so it is refused there.
    """
    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision == "fp16" and device.type == "cpu":
        raise BodaError("precision: fp16 is far slower than fp32 on a CPU; use bf16 or fp32")
    if precision in named:
        return named[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "mps":
        return torch.bfloat16
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return torch.bfloat16 if any(getattr(torch.cpu, name, lambda: False)() for name in asked) else torch.float32


def best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def generation_config(settings: dict, end_ids: list[int], pad_token_id: int | None) -> GenerationConfig:
    """The `generation_config.json` of a model: decoding settings and every id that ends an answer."""
    temperature = settings.get("temperature", 0.0)
    sampling = {"do_sample": True, "temperature": temperature, "top_p": settings.get("top_p", 1.0)} if temperature else {}
    return GenerationConfig(
        eos_token_id=end_ids,
        pad_token_id=pad_token_id,
        max_new_tokens=settings.get("max_new_tokens", 256),
        repetition_penalty=settings.get("repetition_penalty", 1.0),
        num_beams=settings.get("beams", 1),
        **sampling,
    )


def save_folder(model, processor, folder: Path, info: dict) -> Path:
    """Writes a complete model folder, weights in the type they have; `info` (recipe, versions, data, ...) becomes `boda.json`.

    Under a temporary name first. Raises BodaError where it cannot be written; what was there before is still there.
    """
    folder = Path(folder)
    with whole_folder(folder, f"the model to {folder}") as partial:
        if type(model) in REMOTE_CODE:
            config, loader, files = REMOTE_CODE[type(model)]
            classes = {"AutoConfig": config, loader.__name__: type(model)}
            model.config.auto_map = {name: f"{Path(files[0]).stem}.{found.__name__}" for name, found in classes.items()}
            for name in files:
                shutil.copyfile(Path(__file__).parent / name, partial / name)
        for name in model.config.sub_configs:
            part = getattr(model.config, name)
            if part is not None and Path(part._name_or_path).is_dir():
                part._name_or_path = ""  # where it lay on this machine says nothing elsewhere
        with quiet_loading():
            model.save_pretrained(partial)
            processor.save_pretrained(partial)
        write_json(partial / "boda.json", info)
    return folder


def load_config(name: str, trust_remote_code: bool = False):
    """The config of a model folder or hub id. Raises BodaError saying what is missing."""
    place, file = place_of(name)
    if Path(place).is_file():
        raise BodaError(f"{name} is a file; a model is a folder, a hub id or a .gguf file")
    with loading(name, f"no model at '{name}'"):
        return AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code, **file)


def load(name: str | Path, device=None, dtype=None, trust_remote_code: bool = False):
    """A model and its processor, from a folder, a hub id, a .gguf file or a name that Boda ships (`mini`), by what its config says;
    from the folder of a LoRA adapter its base with the adapter added.

    A VLM or a pair model (KoCLIP, CLIP, SigLIP, ...) comes with its transformers processor, a language model with its tokenizer.
    `device`: None: the best there is. `dtype`: None: bf16 where the hardware has it; "auto": as it is stored. `trust_remote_code`:
    run Python code that comes with a hub model. Raises BodaError: no model there, or one of a kind that Boda does not run.
    """
    name = locate(name)
    device = torch.device(best_device() if device is None else device)
    dtype = dtype or best_dtype(device)
    if (Path(name) / "adapter_config.json").is_file() and not (Path(name) / "config.json").is_file():
        return _load_adapted(Path(name), device, dtype, trust_remote_code)
    config = load_config(name, trust_remote_code)
    pair = is_pair(config)
    with loading(name, f"'{name}' has a config but cannot be loaded"):
        if config.model_type in VLM_TYPES or pair:
            model = load_whole(name, AutoModel if pair else AutoModelForImageTextToText, dtype=dtype)
            processor = AutoProcessor.from_pretrained(name)
            if is_torchvision_available():  # it scales pictures slightly differently from what the model was trained on
                processor.image_processor = AutoImageProcessor.from_pretrained(name, backend="pil")
        elif is_foreign_vlm(config, trust_remote_code):  # a family that Boda does not train
            model = load_whole(name, AutoModelForImageTextToText, dtype=dtype, trust_remote_code=trust_remote_code)
            processor = _processor_class(config).from_pretrained(name, trust_remote_code=trust_remote_code)
        elif type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or trust_remote_code:
            place, options = place_of(name)
            options |= {"trust_remote_code": trust_remote_code}
            model = load_whole(place, AutoModelForCausalLM, dtype=dtype, **options)
            processor = AutoTokenizer.from_pretrained(place, **options)
        else:
            raise BodaError(
                f"'{name}' is a {config.model_type} model; Boda answers with vision-language models (those that transformers "
                "loads as AutoModelForImageTextToText) and causal language models, and compares with pair models (CLIP, SigLIP, ...)"
            )
    model.boda_info = read_info(name)
    offset = model.boda_info.get("text_position_offset", getattr(config, "text_position_offset", None))
    if pair and offset is not None:
        move_text_positions(model, offset)
    return model.to(device).eval(), processor


def _load_adapted(folder: Path, device: torch.device, dtype: torch.dtype, trust_remote_code: bool):
    """The model that an adapter's folder names as its base, with the adapter added."""
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not base or base == MADE_BY_THE_RECIPE:
        raise BodaError(
            f"{folder} holds an adapter, and its base is in no folder of its own; boda merge writes the whole model"
        )
    model, processor = load(base, "cpu", torch.float32, trust_remote_code)
    apply_adapter(model, folder)
    return model.to(device=device, dtype=torch.float32 if dtype == "auto" else dtype), processor


def is_pair(config) -> bool:
    """Whether a config is of a model with an image tower and a text tower to compare what they give."""
    cls = MODEL_MAPPING.get(type(config), None)
    return all(hasattr(cls, f"get_{kind}_features") for kind in ("image", "text"))


def is_foreign_vlm(config, trust_remote_code: bool = False) -> bool:
    """Whether transformers, or code that comes with the model, knows how it answers to pictures and texts."""
    own = trust_remote_code and AutoModelForImageTextToText.__name__ in (getattr(config, "auto_map", None) or {})
    return own or type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


def _processor_class(config):
    """What loads the processor of a family that Boda does not train; without torchvision one that leaves videos out.

    transformers scales videos by torchvision only, and refuses the processor of a family that also sees videos without it.
    """
    known = PROCESSOR_MAPPING.get(type(config), None)
    names = known.get_attributes() if known else []
    # SmolVLM's own way with chat templates asks the videos' settings, so it is left to say what it needs.
    if is_torchvision_available() or names[-1:] != ["video_processor"] or "apply_chat_template" in vars(known):
        return AutoProcessor
    return type(known.__name__, (known,), {"get_attributes": classmethod(lambda cls: names[:-1])})


def first_position(text_model) -> int:
    """The position id of a text's first token: RoBERTa's counts from its pad token's id + 1."""
    padding = getattr(getattr(text_model, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else padding + 1


@torch.no_grad()
def move_text_positions(model, offset: int) -> None:
    """Makes texts count from row `offset` of the table of positions, where the weights were trained so (KoCLIP in Flax: 0).

    RoBERTa counts from pad + 1, so the rows are moved there: then any code, the stock class too, gives the trained numbers.
    Raises BodaError for a tower that does not count like RoBERTa.
    """
    first, config = first_position(model.text_model), model.text_model.config
    if not 0 <= offset < first:
        raise BodaError(
            f"text_position_offset: {offset} is nothing for a {config.model_type} text tower, which counts from {first}"
        )
    embeddings = model.text_model.embeddings
    old = embeddings.position_embeddings.weight
    rows = torch.cat([old[:first], old[offset:]])
    embeddings.position_embeddings = nn.Embedding(*rows.shape, padding_idx=first - 1, _weight=rows)
    places = torch.arange(len(rows), device=rows.device)[None]
    embeddings.register_buffer("position_ids", places, persistent=False)
    embeddings.register_buffer("token_type_ids", torch.zeros_like(places), persistent=False)
    config.max_position_embeddings = model.config.text_config.max_position_embeddings = len(rows)
    if hasattr(model.config, "text_position_offset"):
        del model.config.text_position_offset  # a folder written from here on needs none


def read_info(name: str | Path) -> dict:
    """What `boda.json` of a model folder says; empty for models that Boda did not make."""
    return read_json(Path(locate(name)) / "boda.json")
