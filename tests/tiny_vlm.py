"""Tiny vision-language models of families that Boda does not train, as their own processors and folders have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.tiny_build import built, byte_level, fast, save_weights

SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIALS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


def _tokenizer(*images: str, **named):
    tokenizer = fast(
        byte_level(500, (*SPECIALS, *images)), None, pad_token="<|pad|>", eos_token="<|end|>", bos_token="<|user|>", **named
    )
    return tokenizer, {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": tokenizer.eos_token_id}


def _finish(model, processor, folder: Path) -> None:
    end = processor.tokenizer.eos_token_id
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = end, processor.tokenizer.pad_token_id
    save_weights(model, folder)
    processor.save_pretrained(folder)


def _idefics3(folder: Path) -> None:
    """Pictures are cut into tiles, as many as each needs; a batch pads them and says which pixels are padding."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessorPil, Idefics3Processor

    tokenizer, text = _tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    pictures = Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    processor = Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=TEMPLATE.replace("IMAGE", "<image>"))
    vision = dict(SIZES, image_size=32, patch_size=8, model_type="idefics3_vision")
    language = dict(
        SIZES, model_type="llama", max_position_embeddings=512, num_key_value_heads=2, initializer_range=0.2, **text
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = Idefics3Config(text_config=language, vision_config=vision, image_token_id=image, scale_factor=2, dtype="float32")
    _finish(Idefics3ForConditionalGeneration(config), processor, folder)


def _llava_next(folder: Path) -> None:
    """Tiles by the picture's shape; the model has to be told the picture's size."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextImageProcessorPil, LlavaNextProcessor

    tokenizer, text = _tokenizer("<image>")
    grids = [[16, 32], [32, 16], [32, 32]]
    pictures = LlavaNextImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=grids
    )
    processor = LlavaNextProcessor(
        pictures,
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    vision = dict(SIZES, image_size=16, patch_size=4, projection_dim=32, model_type="clip_vision_model")
    language = dict(
        SIZES, model_type="llama", max_position_embeddings=512, num_key_value_heads=2, initializer_range=0.2, **text
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaNextConfig(
        text_config=language, vision_config=vision, image_token_index=image, image_grid_pinpoints=grids, dtype="float32"
    )
    _finish(LlavaNextForConditionalGeneration(config), processor, folder)


def _gemma3(folder: Path) -> None:
    """A picture's tokens see each other, which token types tell."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessorPil, Gemma3Processor

    marks = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer, text = _tokenizer(*marks.values(), extra_special_tokens=marks)
    pictures = Gemma3ImageProcessorPil(size={"height": 32, "width": 32})
    template = TEMPLATE.replace("IMAGE", "<start_of_image>")
    processor = Gemma3Processor(pictures, tokenizer, image_seq_length=4, chat_template=template)
    vision = dict(SIZES, image_size=32, patch_size=8, model_type="siglip_vision_model")
    language = dict(SIZES, num_key_value_heads=2, head_dim=16, max_position_embeddings=512, sliding_window=64, **text)
    language["initializer_range"] = 0.2
    ids = {f"{name}_index": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    config = Gemma3Config(text_config=language, vision_config=vision, mm_tokens_per_image=4, tie_word_embeddings=False, **ids)
    _finish(Gemma3ForConditionalGeneration(config), processor, folder)


def _qwen2_5_vl(folder: Path) -> None:
    """Pictures keep their shape: a batch is one row of patches and the grid of each picture."""
    import json

    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2VLImageProcessorPil

    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer, text = _tokenizer(*marks)
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(marks))
    pictures = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 16 * 16, "longest_edge": 64 * 64}, patch_size=4, merge_size=2, temporal_patch_size=2
    )
    vision = dict(
        depth=2,
        hidden_size=32,
        intermediate_size=64,
        num_heads=2,
        out_hidden_size=32,
        patch_size=4,
        spatial_merge_size=2,
        temporal_patch_size=2,
        window_size=16,
        fullatt_block_indexes=[1],
    )
    language = dict(SIZES, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2, **text)
    language["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    config = Qwen2_5_VLConfig(
        text_config=language,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        dtype="float32",
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    save_weights(model, folder)
    tokenizer.chat_template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    tokenizer.save_pretrained(folder)
    pictures.save_pretrained(folder)
    path = folder / "preprocessor_config.json"  # as the published ones say it
    said = json.loads(path.read_text(encoding="utf-8"))
    said |= {"processor_class": "Qwen2_5_VLProcessor", "image_processor_type": "Qwen2VLImageProcessor"}
    path.write_text(json.dumps(said), encoding="utf-8")


_BUILDERS: dict[str, Callable[[Path], None]] = {
    "idefics3": _idefics3,
    "llava_next": _llava_next,
    "gemma3": _gemma3,
    "qwen2_5_vl": _qwen2_5_vl,
}
VLM_FAMILIES = tuple(_BUILDERS)


def vlm_folder(family: str) -> Path:
    """The folder of a tiny model with its processor."""
    return built(f"vlm-{family}", _BUILDERS[family])
