"""Tiny causal language models and text encoders with their tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.tiny_build import ASSETS, built, byte_level, fast, korean_lines, save_weights, write_json


def _template(name: str) -> str:
    """A chat template; contents are strings only, as in the published language models'.

    hcx: HyperCLOVA X SEED 0.5B: a tool list first, empty where the messages bring none; every turn ends on <|im_end|>.
    hcx_think: SEED Think: tool list and system blocks always, and <|endofturn|> after an assistant's <|im_end|>.
    qwen3: without its tool blocks: turns before the last user query lose their reasoning, the last gets a think block.
    exaone4: an empty think block before every answer, and in the generation prompt unless thinking is asked for.
    gemma2: raises on a system message and on turns that do not alternate; the assistant is called model.
    """
    return (ASSETS / "templates" / f"{name}.jinja").read_text(encoding="utf-8")


def _hcx_tokenizer(template: str):
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|stop|>", "<|endofturn|>")
    end = "<|endoftext|>"
    return fast(byte_level(512, specials), _template(template), bos_token=end, eos_token=end, pad_token=end, unk_token=end)


def _llama3_tokenizer():
    specials = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer = byte_level(520, specials, bos="<|begin_of_text|>")
    return fast(tokenizer, _template("llama3"), bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")  # no pad token


def _polyglot_tokenizer():
    specials = ("<|unused0|>", "<|unused1|>", "<|endoftext|>", "<|sep|>")
    end = "<|endoftext|>"
    tokenizer = byte_level(515, specials, prefix_specials=True)
    return fast(tokenizer, None, bos_token=end, eos_token=end, pad_token=end, unk_token=end)


def llama2_tokenizer():
    """Llama 2's kind: pieces with their space in front ("▁말"), bytes for what is in no piece, a space put before every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaTokenizer

    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()  # no piece goes beyond a word
    trainer = trainers.BpeTrainer(vocab_size=720, special_tokens=specials, limit_alphabet=300, show_progress=False)
    trained.train_from_iterator(korean_lines(), trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    return LlamaTokenizer(vocab=trained.get_vocab(), merges=merges, pad_token="<unk>")


def _qwen3_tokenizer():
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
    tokenizer = byte_level(516, specials)
    tokenizer.add_tokens(["<think>", "</think>"])  # added but not special, as published
    return fast(tokenizer, _template("qwen3"), eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _exaone4_tokenizer():
    specials = ("[PAD]", "[BOS]", "[EOS]", "[UNK]", "[|system|]", "[|user|]", "[|assistant|]", "[|tool|]", "[|endofturn|]")
    tokenizer = byte_level(518, specials, prefix_specials=True)
    tokenizer.add_tokens(["<think>", "</think>"])
    named = dict(bos_token="[BOS]", eos_token="[|endofturn|]", pad_token="[PAD]", unk_token="[UNK]")
    return fast(tokenizer, _template("exaone4"), **named)


def _gemma2_tokenizer():
    specials = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
    tokenizer = byte_level(514, specials, bos="<bos>", prefix_specials=True)
    named = dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    return fast(tokenizer, _template("gemma2"), **named)


def _granite_tokenizer():
    specials = ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>")
    end = "<|end_of_text|>"
    return fast(byte_level(513, specials), _template("granite"), bos_token=end, eos_token=end, pad_token=end, unk_token=end)


def _rope(theta: float, **rest) -> dict:
    return {"rope_type": "default", "rope_theta": theta, **rest}


_SMALL = dict(
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=4096,
    initializer_range=0.15,
    dtype="float32",
)
_GROUPED = dict(_SMALL, num_key_value_heads=2, head_dim=16)  # 4 heads of 16 are not the 48 of the hidden state


def _rows(tokenizer, multiple: int = 64) -> int:
    """Embedding rows: the tokenizer's length rounded up, with at least one row to spare."""
    return (len(tokenizer) // multiple + 1) * multiple


def _ids(tokenizer, *tokens: str) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(token) for token in tokens]


def _write_language(model, tokenizer, folder: Path, stop: list[int] | int | None = None) -> None:
    if stop is not None:
        model.generation_config.eos_token_id = stop
    model.generation_config.pad_token_id = model.config.pad_token_id
    save_weights(model, folder)
    tokenizer.save_pretrained(folder)


def _llama(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _hcx_tokenizer("hcx")
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        **_GROUPED,
        vocab_size=_rows(tokenizer),
        tie_word_embeddings=True,
        rope_parameters=_rope(1e8),
        rms_norm_eps=1e-5,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    _write_language(LlamaForCausalLM(config), tokenizer, folder)


def _llama3(folder: Path, layers: int = 2) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _llama3_tokenizer()
    end_of_text, eot = _ids(tokenizer, "<|end_of_text|>", "<|eot_id|>")
    config = LlamaConfig(
        **{**_GROUPED, "head_dim": 12, "num_hidden_layers": layers},
        vocab_size=len(tokenizer),
        tie_word_embeddings=False,
        rope_parameters=_rope(5e5),
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end_of_text,
    )
    _write_language(LlamaForCausalLM(config), tokenizer, folder, stop=[end_of_text, eot])


def _llama3_deep(folder: Path) -> None:
    """With layers between the first and the last."""
    _llama3(folder, layers=4)


def _llama2(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = llama2_tokenizer()
    config = LlamaConfig(
        **_SMALL,
        vocab_size=len(tokenizer),
        tie_word_embeddings=False,
        rope_parameters=_rope(1e4),
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    _write_language(LlamaForCausalLM(config), tokenizer, folder)


def _synatra(folder: Path) -> None:
    """Synatra 7B: a Mistral with ChatML's two tokens behind its pieces."""
    from transformers import MistralConfig, MistralForCausalLM

    tokenizer = llama2_tokenizer()
    tokenizer.add_tokens(["<|im_end|>", "<|im_start|>"], special_tokens=True)
    tokenizer.eos_token = "<|im_end|>"
    config = MistralConfig(
        **_GROUPED,
        vocab_size=len(tokenizer),
        tie_word_embeddings=False,
        rope_parameters=_rope(1e4),
        sliding_window=4096,
        bos_token_id=1,
        eos_token_id=tokenizer.eos_token_id,
    )
    _write_language(MistralForCausalLM(config), tokenizer, folder)


def _gpt_neox(folder: Path, tied: bool = False) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tokenizer = _polyglot_tokenizer()
    config = GPTNeoXConfig(
        **_SMALL,
        vocab_size=len(tokenizer) + 77,
        tie_word_embeddings=tied,
        rope_parameters=_rope(1e4, partial_rotary_factor=0.5),
        layer_norm_eps=1e-5,
        use_parallel_residual=True,
        bos_token_id=0,
        eos_token_id=tokenizer.eos_token_id,
    )
    _write_language(GPTNeoXForCausalLM(config), tokenizer, folder)


def _gpt_neox_tied(folder: Path) -> None:
    _gpt_neox(folder, tied=True)


def _hyperclovax(folder: Path) -> None:
    from transformers import HyperCLOVAXConfig, HyperCLOVAXForCausalLM

    tokenizer = _hcx_tokenizer("hcx_think")
    end = tokenizer.eos_token_id
    config = HyperCLOVAXConfig(
        **_GROUPED,
        vocab_size=_rows(tokenizer),
        tie_word_embeddings=False,
        rope_parameters=_rope(1e8),
        embedding_multiplier=3.0,
        logits_scaling=0.25,
        residual_multiplier=0.6,
        attention_multiplier=0.2,
        use_post_norm=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    _write_language(HyperCLOVAXForCausalLM(config), tokenizer, folder, stop=[end, *_ids(tokenizer, "<|endofturn|>")])


def _exaone4(folder: Path) -> None:
    from transformers import Exaone4Config, Exaone4ForCausalLM

    tokenizer = _exaone4_tokenizer()
    config = Exaone4Config(
        **_GROUPED,
        vocab_size=_rows(tokenizer),
        tie_word_embeddings=True,
        rope_parameters=_rope(1e6),
        sliding_window=None,  # the 1.2B attends in full
        layer_types=["full_attention"] * 2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    _write_language(Exaone4ForCausalLM(config), tokenizer, folder)


def _qwen3(folder: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = _qwen3_tokenizer()
    end_of_text, im_end = _ids(tokenizer, "<|endoftext|>", "<|im_end|>")
    config = Qwen3Config(
        **_GROUPED,
        vocab_size=_rows(tokenizer),
        tie_word_embeddings=True,
        rope_parameters=_rope(1e6),
        bos_token_id=end_of_text,
        eos_token_id=im_end,
    )
    _write_language(Qwen3ForCausalLM(config), tokenizer, folder, stop=[im_end, end_of_text])


def _gemma2(folder: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    tokenizer = _gemma2_tokenizer()
    eos, end_of_turn = _ids(tokenizer, "<eos>", "<end_of_turn>")
    config = Gemma2Config(
        **_GROUPED,
        vocab_size=_rows(tokenizer),
        tie_word_embeddings=True,
        rope_parameters=_rope(1e4),
        final_logit_softcapping=2.0,
        attn_logit_softcapping=5.0,
        query_pre_attn_scalar=20,
        sliding_window=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos,
        pad_token_id=tokenizer.pad_token_id,
    )
    _write_language(Gemma2ForCausalLM(config), tokenizer, folder, stop=[eos, end_of_turn])


def _granite(folder: Path) -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    tokenizer = _granite_tokenizer()
    end = tokenizer.eos_token_id
    config = GraniteConfig(
        **_SMALL,
        num_key_value_heads=2,
        vocab_size=_rows(tokenizer),
        tie_word_embeddings=True,
        rope_parameters=_rope(1e4),
        embedding_multiplier=3.0,
        logits_scaling=4.0,
        residual_multiplier=0.5,
        attention_multiplier=0.2,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    _write_language(GraniteForCausalLM(config), tokenizer, folder)


_LANGUAGES: dict[str, Callable[[Path], None]] = {
    "llama": _llama,
    "llama3": _llama3,
    "gpt_neox": _gpt_neox,
    "gpt_neox_tied": _gpt_neox_tied,
    "hyperclovax": _hyperclovax,
    "exaone4": _exaone4,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "granite": _granite,
}
LANGUAGE_FAMILIES = tuple(_LANGUAGES)
# For single tests; not among the families that every test goes through.
_MORE_LANGUAGES = {"llama2": _llama2, "llama3_deep": _llama3_deep, "synatra": _synatra}
TIED_FAMILIES = ("llama", "gpt_neox_tied", "exaone4", "qwen3", "gemma2", "granite")
SCALED_HEAD_FAMILIES = ("hyperclovax", "gemma2", "granite")  # the head does more than a matrix product
CHAT_FAMILIES = tuple(family for family in LANGUAGE_FAMILIES if not family.startswith("gpt_neox"))


def language_folder(family: str) -> Path:
    """A causal language model with its tokenizer; `family` is one of LANGUAGE_FAMILIES, llama2, llama3_deep or synatra."""
    return built(family, {**_LANGUAGES, **_MORE_LANGUAGES}[family])


def _roberta(folder: Path) -> None:
    from tokenizers import BertWordPieceTokenizer
    from transformers import RobertaConfig, RobertaForMaskedLM

    specials = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]  # klue's order: RoBERTa's ids under BERT's names
    trained = BertWordPieceTokenizer(lowercase=False, strip_accents=False, clean_text=True)
    trained.train_from_iterator(
        korean_lines(), vocab_size=1200, limit_alphabet=800, min_frequency=1, special_tokens=specials, show_progress=False
    )
    trained.save_model(str(folder))
    trained.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "do_lower_case": False,
            "bos_token": "[CLS]",
            "eos_token": "[SEP]",
            "unk_token": "[UNK]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
            "tokenize_chinese_chars": True,
            "strip_accents": None,
            "model_max_length": 128,
            "tokenizer_class": "BertTokenizer",
        },
    )
    named = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(folder / "special_tokens_map.json", {name: settings[name] for name in named})
    config = RobertaConfig(
        vocab_size=trained.get_vocab_size(),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=130,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        initializer_range=0.15,
        tokenizer_class="BertTokenizer",
        dtype="float32",
    )
    save_weights(RobertaForMaskedLM(config), folder)


_TEXTS: dict[str, Callable[[Path], None]] = {"roberta": _roberta}
TEXT_FAMILIES = tuple(_TEXTS)


def text_folder(family: str = "roberta") -> Path:
    """A bidirectional text encoder with its tokenizer (masked-language-model checkpoint, so no pooler inside)."""
    return built(family, _TEXTS[family])
