"""Tiny random checkpoints of every family Boda supports, saved the way the published ones are.

Each folder is what `from_pretrained` reads: config, weights, tokenizer or image processor. Weights come from a fixed seed
and are large enough (unlike a fresh initialisation's) that a forgotten bias, scale or layer shows in the output.
Folders are built on first use and kept under the temporary folder, named by the contents of this file and by the versions of
torch, transformers and tokenizers: editing anything here builds them anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@cache
def korean_lines() -> tuple[str, ...]:
    """The lines all tokenizers here are trained on: Korean with some English, digits, emoji and hanja."""
    return tuple((ASSETS / "korean.txt").read_text(encoding="utf-8").splitlines())


# ---- where folders lie ------------------------------------------------------------------------------------------------------


@cache
def tiny_root() -> Path:
    """The cache folder of this version of the file."""
    import tokenizers
    import torch
    import transformers

    digest = hashlib.sha256()
    for path in (Path(__file__), *sorted(ASSETS.rglob("*"))):
        if path.is_file():
            digest.update(path.read_bytes())
    versions = f"{torch.__version__} {transformers.__version__} {tokenizers.__version__}"
    digest.update(versions.encode())
    user = os.getuid() if hasattr(os, "getuid") else 0
    root = Path(tempfile.gettempdir()) / f"boda-tiny-{user}-{digest.hexdigest()[:16]}"
    root.mkdir(exist_ok=True)
    return root


def _built(name: str, build: Callable[[Path], None]) -> Path:
    """The folder `name`, written by `build` if it is not there yet; safe when several test processes ask at once."""
    import torch

    folder = tiny_root() / name
    if folder.exists():
        return folder
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=tiny_root()))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(name.encode()))
            build(scratch)
        try:
            scratch.rename(folder)
        except OSError:  # another process was first
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _save(model, folder: Path) -> None:
    """Save with every vector (norm scales, biases) moved off its initial 0 or 1."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.eval().save_pretrained(folder)


# ---- tokenizers -------------------------------------------------------------------------------------------------------------


def _byte_level(vocab_size: int, specials: Sequence[str], bos: str | None = None, prefix_specials: bool = False):
    """A byte-level BPE tokenizer (GPT-2, Llama 3, Qwen, HyperCLOVA X kind); `bos` is prepended to plain texts if given."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    first = list(specials) if prefix_specials else []
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(specials) + len(first),
        special_tokens=first,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(korean_lines(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if bos is not None:
        template = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
        tokenizer.post_processor = processors.Sequence([tokenizer.post_processor, template])
    return tokenizer


def _fast(tokenizer, template: str | None, **tokens):
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **tokens)
    if template is not None:
        wrapped.chat_template = template
    return wrapped


# Chat templates take string contents only, as the published language models' do.

# HyperCLOVA X SEED 0.5B: a tool list first, empty where the messages bring none; every turn ends on <|im_end|>.
HCX_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'tool_list' %}{{ '<|im_start|>tool_list\\n<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# HyperCLOVA X SEED Think: tool list and system blocks always, and <|endofturn|> after an assistant's <|im_end|>.
HCX_THINK_TEMPLATE = (
    "{{ '<|im_start|>tool_list\\n<|im_end|>\\n' }}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\\n<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
    "{% if message['role'] == 'assistant' %}{{ '<|endofturn|>' }}{% endif %}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

LLAMA3_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim"
    " + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

# Qwen3 without its tool blocks: reasoning of turns before the last user query goes, the turns after it get a think block.
QWEN3_TEMPLATE = r"""
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == 'user' and message.content is string %}
        {%- set ns.searching = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\n<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>assistant\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""

# EXAONE 4: an empty think block before every answer, and in the generation prompt unless thinking is asked for.
EXAONE4_TEMPLATE = r"""
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '[|assistant|]\n<think>\n\n</think>\n\n' + message.content.split('</think>')[-1].strip() + '[|endofturn|]\n' }}
    {%- else %}
        {{- '[|' + message.role + '|]\n' + message.content.strip() + '[|endofturn|]\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[|assistant|]\n' }}
    {%- if enable_thinking is defined and enable_thinking is true %}
        {{- '<think>\n' }}
    {%- else %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""

GEMMA2_TEMPLATE = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)

GRANITE_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)


def _hcx_tokenizer(template: str):
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|stop|>", "<|endofturn|>")
    end = "<|endoftext|>"
    return _fast(_byte_level(512, specials), template, bos_token=end, eos_token=end, pad_token=end, unk_token=end)


def _llama3_tokenizer():
    specials = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer = _byte_level(520, specials, bos="<|begin_of_text|>")
    return _fast(tokenizer, LLAMA3_TEMPLATE, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")  # no pad token


def _polyglot_tokenizer():
    specials = ("<|unused0|>", "<|unused1|>", "<|endoftext|>", "<|sep|>")
    end = "<|endoftext|>"
    tokenizer = _byte_level(515, specials, prefix_specials=True)
    return _fast(tokenizer, None, bos_token=end, eos_token=end, pad_token=end, unk_token=end)


def _qwen3_tokenizer():
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
    tokenizer = _byte_level(516, specials)
    tokenizer.add_tokens(["<think>", "</think>"])  # added but not special, as published
    return _fast(tokenizer, QWEN3_TEMPLATE, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _exaone4_tokenizer():
    specials = ("[PAD]", "[BOS]", "[EOS]", "[UNK]", "[|system|]", "[|user|]", "[|assistant|]", "[|tool|]", "[|endofturn|]")
    tokenizer = _byte_level(518, specials, prefix_specials=True)
    tokenizer.add_tokens(["<think>", "</think>"])
    named = dict(bos_token="[BOS]", eos_token="[|endofturn|]", pad_token="[PAD]", unk_token="[UNK]")
    return _fast(tokenizer, EXAONE4_TEMPLATE, **named)


def _gemma2_tokenizer():
    specials = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
    tokenizer = _byte_level(514, specials, bos="<bos>", prefix_specials=True)
    named = dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    return _fast(tokenizer, GEMMA2_TEMPLATE, **named)


def _granite_tokenizer():
    specials = ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>")
    end = "<|end_of_text|>"
    return _fast(_byte_level(513, specials), GRANITE_TEMPLATE, bos_token=end, eos_token=end, pad_token=end, unk_token=end)


# ---- language models --------------------------------------------------------------------------------------------------------


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
    _save(model, folder)
    tokenizer.save_pretrained(folder)


def _llama(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _hcx_tokenizer(HCX_TEMPLATE)
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


def _llama3(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _llama3_tokenizer()
    end_of_text, eot = _ids(tokenizer, "<|end_of_text|>", "<|eot_id|>")
    config = LlamaConfig(
        **{**_GROUPED, "head_dim": 12},
        vocab_size=len(tokenizer),
        tie_word_embeddings=False,
        rope_parameters=_rope(5e5),
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end_of_text,
    )
    _write_language(LlamaForCausalLM(config), tokenizer, folder, stop=[end_of_text, eot])


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

    tokenizer = _hcx_tokenizer(HCX_THINK_TEMPLATE)
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
TIED_FAMILIES = ("llama", "gpt_neox_tied", "exaone4", "qwen3", "gemma2", "granite")
SCALED_HEAD_FAMILIES = ("hyperclovax", "gemma2", "granite")  # the head does more than a matrix product
CHAT_FAMILIES = tuple(family for family in LANGUAGE_FAMILIES if not family.startswith("gpt_neox"))


def language_folder(family: str) -> Path:
    """A causal language model with its tokenizer; `family` is one of LANGUAGE_FAMILIES."""
    return _built(family, _LANGUAGES[family])


# ---- text towers ------------------------------------------------------------------------------------------------------------


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
    _write_json(
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
    _write_json(folder / "special_tokens_map.json", {name: settings[name] for name in named})
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
    _save(RobertaForMaskedLM(config), folder)


_TEXTS: dict[str, Callable[[Path], None]] = {"roberta": _roberta}
TEXT_FAMILIES = tuple(_TEXTS)


def text_folder(family: str = "roberta") -> Path:
    """A bidirectional text encoder with its tokenizer (masked-language-model checkpoint, so no pooler inside)."""
    return _built(family, _TEXTS[family])


# ---- vision towers ----------------------------------------------------------------------------------------------------------


def _write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")


def _clip_preprocessor(size: int) -> dict:
    return {
        "crop_size": size,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "resample": 3,
        "size": size,
    }


_CLIP_VISION = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=56,
    patch_size=14,
    projection_dim=24,
    initializer_factor=2.0,
)


def _clip_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    specials = ("<|startoftext|>", "<|endoftext|>")
    trainable = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trainable.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False)
    trainable.train_from_iterator((line.lower() for line in korean_lines()), trainer)
    merges = [tuple(pair) for pair in json.loads(trainable.to_str())["model"]["merges"]]
    # CLIP's own order: bytes, bytes that end a word, merges, specials
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*tokens, *specials]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=48)


def _clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    tokenizer = _clip_tokenizer()
    text = dict(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=48,
        projection_dim=24,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_factor=2.0,
    )
    config = CLIPConfig(
        text_config=text, vision_config=_CLIP_VISION, projection_dim=24, initializer_factor=2.0, dtype="float32"
    )
    _save(CLIPModel(config), folder)
    tokenizer.save_pretrained(folder)
    _write_json(folder / "preprocessor_config.json", _clip_preprocessor(56))


def _clip_vision(folder: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    _save(CLIPVisionModel(CLIPVisionConfig(**_CLIP_VISION, dtype="float32")), folder)
    _write_json(folder / "preprocessor_config.json", _clip_preprocessor(56))


def _siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipModel

    tokenizer = _fast(_byte_level(500, ("</s>", "<unk>")), None, eos_token="</s>", pad_token="</s>", unk_token="<unk>")
    tokenizer.model_max_length = 64
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    end = tokenizer.eos_token_id
    text = dict(
        sizes, vocab_size=len(tokenizer), max_position_embeddings=64, eos_token_id=end, bos_token_id=end, pad_token_id=end
    )
    vision = dict(sizes, image_size=64, patch_size=16)
    _save(SiglipModel(SiglipConfig(text_config=text, vision_config=vision, dtype="float32")), folder)
    tokenizer.save_pretrained(folder)
    _write_json(
        folder / "preprocessor_config.json",
        {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": HALF,
            "image_processor_type": "SiglipImageProcessor",
            "image_std": HALF,
            "processor_class": "SiglipProcessor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"height": 64, "width": 64},
        },
    )


def _vit(folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        num_labels=5,
        initializer_range=0.15,
        dtype="float32",
    )
    _save(ViTForImageClassification(config), folder)
    _write_json(
        folder / "preprocessor_config.json",
        {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": HALF,
            "image_processor_type": "ViTImageProcessor",
            "image_std": HALF,
            "resample": 2,
            "rescale_factor": 1 / 255,
            "size": {"height": 32, "width": 32},
        },
    )


def _convnext(folder: Path) -> None:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 2, 1],
        image_size=64,
        num_labels=5,
        layer_scale_init_value=0.5,
        initializer_range=0.15,
        dtype="float32",
    )
    _save(ConvNextForImageClassification(config), folder)
    _write_json(
        folder / "preprocessor_config.json",
        {
            "crop_pct": 0.875,
            "do_normalize": True,
            "do_resize": True,
            "feature_extractor_type": "ConvNextFeatureExtractor",
            "image_mean": IMAGENET_MEAN,
            "image_std": IMAGENET_STD,
            "resample": 3,
            "size": 64,
        },
    )


def _dinov2_registers(folder: Path) -> None:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=56,
        patch_size=14,
        num_register_tokens=4,
        layerscale_value=0.5,
        initializer_range=0.15,
        dtype="float32",
    )
    _save(Dinov2WithRegistersModel(config), folder)
    _write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": {"height": 56, "width": 56},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": IMAGENET_MEAN,
            "image_processor_type": "BitImageProcessor",
            "image_std": IMAGENET_STD,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": 64},
        },
    )


_VISIONS: dict[str, Callable[[Path], None]] = {
    "clip": _clip,
    "clip_vision": _clip_vision,
    "siglip": _siglip,
    "vit": _vit,
    "convnext": _convnext,
    "dinov2_registers": _dinov2_registers,
}
VISION_FAMILIES = tuple(_VISIONS)
# What a picture becomes: side of the picture, (rows, columns) of the grid, tokens before the grid's.
VISION_SHAPES: dict[str, tuple[int, tuple[int, int], int]] = {
    "clip": (56, (4, 4), 1),
    "clip_vision": (56, (4, 4), 1),
    "siglip": (64, (4, 4), 0),
    "vit": (32, (4, 4), 1),
    "convnext": (64, (2, 2), 0),
    "dinov2_registers": (56, (4, 4), 5),
}


def vision_folder(family: str) -> Path:
    """A vision model with its image processor; `family` is one of VISION_FAMILIES. "clip" and "siglip" have text towers too."""
    return _built(family, _VISIONS[family])


# ---- pictures and data ------------------------------------------------------------------------------------------------------


def random_picture(seed: int, size: tuple[int, int] = (48, 40)):
    """A PIL RGB picture of `size` (width, height): smooth colours with a little noise, different for every seed."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size, Image.Resampling.BILINEAR)
    noise = generator.integers(-12, 13, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + noise, 0, 255).astype(np.uint8))


def save_pictures(folder: Path | str, n: int, size: tuple[int, int] = (48, 40), suffix: str = ".png") -> list[Path]:
    """Write picture_00000 .. into `folder`; sizes vary a little around `size` so that shapes are not all alike."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(n):
        path = folder / f"picture_{index:05d}{suffix}"
        random_picture(index, (size[0] + 4 * (index % 3), size[1] + 6 * (index % 2))).save(path)
        paths.append(path)
    return paths


def llava_rows(
    n: int, turns: int | Iterable[int] = 1, text_only: float = 0.25, pictures: int | None = None, seed: int = 0
) -> list[dict]:
    """Rows of the LLaVA format: `turns` questions a row (a sequence is cycled), `text_only` of the rows without a picture.

    Names of pictures are those `save_pictures` writes; `pictures` fewer than the rows makes rows share them.
    """
    generator = random.Random(seed)
    counts = [turns] if isinstance(turns, int) else list(turns)
    without = set(generator.sample(range(n), round(n * text_only)))
    pictures = n if pictures is None else pictures
    lines = korean_lines()
    rows = []
    for index in range(n):
        said = []
        for turn in range(counts[index % len(counts)]):
            question, answer = generator.choice(lines), generator.choice(lines)
            if turn == 0 and index not in without:
                question = f"<image>\n{question}" if index % 2 == 0 else f"{question}\n<image>"
            said += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        row = {"id": f"tiny_{index:05d}", "conversations": said}
        if index not in without:
            row["image"] = f"picture_{index % pictures:05d}.png"
        rows.append(row)
    return rows


def llava_file(
    folder: Path | str,
    n: int,
    turns: int | Iterable[int] = 1,
    text_only: float = 0.25,
    pictures: int | None = None,
    seed: int = 0,
    name: str = "chat.json",
) -> Path:
    """Write `folder/chat.json` (`llava_rows`) and its pictures under `folder/images`; returns the json's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_pictures(folder / "images", n if pictures is None else pictures)
    path = folder / name
    _write_json(path, llava_rows(n, turns, text_only, pictures, seed))
    return path
