"""What `boda bench` means by its numbers: on a scripted clock where they are exact, on small real models where they must hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
import torch

import boda
from boda.errors import BodaError
from boda.evaluate import latency, machine, shapes
from boda.evaluate.latency import bench
from boda.models.generate import encode as real_encode
from tests import tiny
from tests.support import answering, tiny_model
from tests.tiny_vlm import VLM_FAMILIES, vlm_folder

CPU = torch.device("cpu")
LANGUAGE = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 2000}
LANGUAGE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True}
TOWER = {"model_type": "clip_vision_model", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TOWER |= {"intermediate_size": 64, "patch_size": 8, "image_size": 32}
ROBERTA = {"model_type": "roberta", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 2000}
ROBERTA |= {"intermediate_size": 64, "max_position_embeddings": 130, "type_vocab_size": 1}
TINY_SHAPES = {
    "language": {"language": LANGUAGE},
    "vlm": {"language": LANGUAGE, "vision": TOWER, "connector": "ldpv2"},
    "flamingo": {
        "language": LANGUAGE,
        "vision": TOWER,
        "connector": {"depth": 1, "num_latents": 3, "heads": 2, "head_dim": 16, "every": 1},
    },
    "pair": {"language": ROBERTA, "vision": TOWER},
}


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch):
    monkeypatch.setattr(machine, "READ_BYTES", 1 << 20)


@pytest.fixture
def tiny_shapes(monkeypatch):
    monkeypatch.setattr(shapes, "SHAPES", TINY_SHAPES)


def language(family: str = "llama"):
    return boda.load(tiny.language_folder(family), CPU, torch.float32)


# ---------------------------------------------------------------- on a scripted clock


class Clock:
    """Time that passes where a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def scripted(monkeypatch):
    """A language model whose work takes: 0.5 s to encode, 2 s to the first token, then so many seconds a token, by generation."""
    clock, model_and_processor = Clock(), language()
    model, _ = model_and_processor
    steps = iter([9.0, 0.5, 0.25, 1.0] * 9)  # a warm-up that must not count, and three repetitions
    asked = []

    def encode(*given):
        clock.now += 0.5
        return real_encode(*given)

    def generate(input_ids, max_new_tokens, stopping_criteria, **_):
        asked.append((len(input_ids), max_new_tokens))
        assert model.generation_config.eos_token_id is None
        step, ids = next(steps), input_ids
        for number in range(max_new_tokens):
            clock.now += step if number else 2.0
            ids = torch.cat([ids, ids[:, :1]], dim=1)
            assert not any(criterion(ids, None).any() for criterion in stopping_criteria)
        kept = torch.zeros(len(ids), 2, ids.shape[1] - 1, 16)
        cache = SimpleNamespace(layers=[SimpleNamespace(keys=kept, values=kept)] * 2)
        return SimpleNamespace(sequences=ids, past_key_values=cache)

    monkeypatch.setattr(machine, "perf_counter", clock)
    monkeypatch.setattr("boda.models.generate.encode", encode)
    monkeypatch.setattr(model, "generate", generate)
    reads = iter([1e6, 4e6, 2e6, 3e6])
    monkeypatch.setattr(latency, "read_bandwidth", lambda device: next(reads))
    return SimpleNamespace(pair=model_and_processor, asked=asked)


def test_every_number_is_what_its_definition_says(scripted):
    model, _ = scripted.pair
    found = bench(scripted.pair, batches=[4, 1, 1], new_tokens=11, prompt_tokens=40, quiet=True)
    one, four = found["rows"]
    assert (one["batch"], four["batch"], one["new_tokens"], one["images"]) == (1, 4, 11, 0)
    assert scripted.asked == [(1, 4), *[(1, 11)] * 3, (4, 4), *[(4, 11)] * 3]
    for row in found["rows"]:
        batch = row["batch"]
        assert row["first_token_seconds"] == pytest.approx(0.5 + 2)
        assert row["decode_tokens_per_second_each"] == pytest.approx(10 / (10 * 0.5))  # the median repetition
        assert row["decode_tokens_per_second"] == pytest.approx(2 * batch)
        assert row["seed_tokens_per_second"] == pytest.approx(11 * batch / (2 + 10 * 0.5))
        assert row["seconds"] == pytest.approx(0.5 + 2 + 10 * 0.5)
        assert row["images_per_second"] is None and row["texts_per_second"] is None
        # Two layers of keys and values, two heads of 16, four bytes; eleven tokens are on average five and a half of them.
        kept = 2 * 2 * 2 * 16 * 4 * (row["prompt_tokens"] + 11 / 2)
        weights = 4 * sum(parameter.numel() for parameter in model.parameters())
        assert row["bytes_per_step"] == pytest.approx(weights + batch * kept)
        assert row["bandwidth_share"] == pytest.approx((weights + batch * kept) * 2 / 4e6)  # of the best read of the run
    assert found["bandwidth"] == 4e6 and found["bytes_per_token"] == pytest.approx(one["bytes_per_step"])


def test_a_batch_without_room_is_told_and_the_rest_goes_on(scripted, monkeypatch, tmp_path: Path):
    model, _ = scripted.pair
    real = model.generate

    def generate(input_ids, **rest):
        if len(input_ids) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore words")
        return real(input_ids, **rest)

    monkeypatch.setattr(model, "generate", generate)
    found = bench(scripted.pair, batches=[1, 2, 3], new_tokens=4, prompt_tokens=40, out=tmp_path / "out", quiet=True)
    assert [row["batch"] for row in found["rows"]] == [1, 3]
    assert found["left_out"] == [{"batch": 2, "why": "CUDA out of memory. Tried to allocate 2.00 GiB."}]
    assert json.loads((tmp_path / "out/bench.json").read_text(encoding="utf-8")) == found


def test_an_error_of_the_model_is_no_lack_of_memory(scripted, monkeypatch):
    def generate(**_):
        raise RuntimeError("shapes do not go together")

    monkeypatch.setattr(scripted.pair[0], "generate", generate)
    with pytest.raises(RuntimeError, match="shapes"):
        bench(scripted.pair, batches=[1], prompt_tokens=40, quiet=True)


def test_a_batch_that_would_end_the_process_is_not_tried(scripted, monkeypatch, capsys):
    monkeypatch.setattr(latency, "free_memory", lambda device: 200_000)
    found = bench(scripted.pair, batches=[1, 500], new_tokens=4, prompt_tokens=40, quiet=True)
    assert [row["batch"] for row in found["rows"]] == [1]
    assert found["left_out"][0]["batch"] == 500 and "out of memory" in found["left_out"][0]["why"]
    latency.show(found)
    assert "batch 500 is left out: out of memory" in capsys.readouterr().out


# ---------------------------------------------------------------- on small real models


def test_no_token_ends_an_answer_and_the_model_is_left_as_it_was():
    model, processor = language()
    model.generation_config.eos_token_id = list(range(model.config.vocab_size))
    found = bench((model, processor), batches=[2], new_tokens=7, prompt_tokens=40, repetitions=1, quiet=True)
    (row,) = found["rows"]
    assert row["new_tokens"] == 7 and row["decode_tokens_per_second"] > 0
    kept = 2 * 2 * 2 * 16 * 4 * (row["prompt_tokens"] + 7 / 2)  # the cache that it really had
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert found["bytes_per_token"] == pytest.approx(weights + kept)
    assert len(model.generation_config.eos_token_id) == model.config.vocab_size


def test_an_untied_table_is_not_read_and_a_model_without_a_template_is_asked_plainly():
    model, processor = language("gpt_neox")
    assert processor.chat_template is None
    found = bench((model, processor), batches=[1], new_tokens=2, prompt_tokens=40, repetitions=1, quiet=True)
    table = model.get_input_embeddings().weight
    assert table is not model.get_output_embeddings().weight
    read = sum(parameter.numel() for parameter in model.parameters()) - table.numel()
    assert latency.weights_read(model) == 4 * read
    assert found["rows"][0]["prompt_tokens"] in (39, 40)


def test_a_model_whose_config_does_not_say_its_inner_size():
    from transformers import GPT2Config, GPT2LMHeadModel

    _, processor = language()
    config = GPT2Config(vocab_size=len(processor), n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    found = bench((GPT2LMHeadModel(config), processor), batches=[1], new_tokens=2, prompt_tokens=40, repetitions=1, quiet=True)
    assert [row["batch"] for row in found["rows"]] == [1]


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_matrices_in_few_bits_are_told_and_counted(kind: str):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    from boda.models.quantised import loading_options

    _, processor = language()
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = LlamaForCausalLM(LlamaConfig(vocab_size=len(processor), **sizes))
    with TemporaryDirectory() as folder:
        whole.save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, **loading_options(kind, CPU, torch.float32))
    found = bench((model, processor), batches=[1], new_tokens=2, prompt_tokens=40, repetitions=1, quiet=True)
    assert found["dtype"] == f"float32, matrices in {kind}" and found["parameters"] == whole.num_parameters()
    matrices = 128 * 128 * 7  # of them a step reads so many bytes fewer
    fewer = latency.weights_read(whole) - latency.weights_read(model)
    assert fewer == pytest.approx(matrices * {"int8": 3, "nf4": 3.5}[kind], rel=0.1)


@pytest.mark.parametrize("images", [None, 0, 2])
def test_a_stock_vlm_sees(images):
    model, processor = answering(tiny_model())
    found = bench((model, processor), batches=[1, 2], new_tokens=3, prompt_tokens=40, images=images, repetitions=1, quiet=True)
    pictures = 1 if images is None else images
    for row in found["rows"]:
        assert row["images"] == pictures
        assert (row["images_per_second"] is None) == (pictures == 0)
        assert 38 <= row["prompt_tokens"] - pictures * model.config.image_seq_length <= 40 + pictures  # and a line break each
    language_model = sum(parameter.numel() for parameter in model.model.language_model.parameters())
    head = 0 if model.lm_head.weight is model.get_input_embeddings().weight else model.lm_head.weight.numel()
    table = 0 if not head else model.get_input_embeddings().weight.numel()
    assert latency.weights_read(model) == 4 * (language_model + head - table)


@pytest.mark.parametrize("family", VLM_FAMILIES)
def test_a_vlm_of_another_family_sees_with_its_own_processor(family: str):
    model, processor = boda.load(vlm_folder(family), CPU, torch.float32)
    found = bench((model, processor), batches=[2], new_tokens=3, prompt_tokens=40, repetitions=1, quiet=True)
    (row,) = found["rows"]
    assert row["images"] == 1 and row["images_per_second"] > 0 and row["prompt_tokens"] > 41
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    seeing = re.compile("vision|visual|projector|connector|image_newline")
    read = [each for name, each in model.named_parameters() if not seeing.search(name) and (each is head or each is not table)]
    assert latency.weights_read(model) == 4 * sum(each.numel() for each in read)


@pytest.mark.parametrize("kind", ["language", "vlm", "flamingo", "pair"])
def test_a_shape_of_every_kind_is_built_and_measured(tiny_shapes, kind: str):
    found = bench(shape=kind, batches=[1, 3], prompt_tokens=30, repetitions=1, quiet=True)
    model, _ = shapes.build(kind, CPU, torch.float32)
    assert found["shape"] == found["model"] == kind and found["fingerprint"] == ""
    assert found["parameters"] == shapes.parameters_of(kind) == sum(parameter.numel() for parameter in model.parameters())
    for row in found["rows"]:
        sees, answers = kind != "language", kind != "pair"
        assert bool(row["images_per_second"]) == sees and bool(row["texts_per_second"]) == (not answers)
        assert bool(row["decode_tokens_per_second"]) == bool(row["bandwidth_share"]) == answers
        assert row["new_tokens"] == (64 if answers else None) and row["images"] == int(sees)
        told = {name for name, value in row.items() if value is not None} - {"batch"}
        assert told <= set(found["definitions"])
        assert row["peak_bytes"] is None or row["peak_bytes"] > 0
    if kind == "vlm":  # 4 x 4 features become 2 x 2 tokens
        assert row["prompt_tokens"] in range(32, 36)
    if kind == "flamingo":
        # Two blocks keep keys and values of three latents in two heads of 16; what made them is not read again.
        assert latency._looked_at(model) == 2 * 2 * 3 * 2 * 16 * 4
        whole = sum(parameter.numel() for parameter in model.model.language_model.parameters())
        assert latency.weights_read(model) == 4 * (whole - 2 * 32 * 64)
    again, _ = shapes.build(kind, CPU, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_published_shapes_have_the_published_sizes():
    assert shapes.parameters_of("hyperclovax-0.5b") == 453_035_008 + 113_246_208
    assert shapes.parameters_of("polyglot-3.8b") == 3_809_974_272
    connector = 2_109_440
    tower = shapes.parameters_of("small-korean-vlm") - shapes.parameters_of("hyperclovax-0.5b") - connector
    assert tower == 303_507_456 - 12_596_224  # CLIP's, without its last layer


# ---------------------------------------------------------------- bad input


def test_a_shape_that_does_not_fit_is_refused_before_it_is_built(monkeypatch):
    monkeypatch.setattr(shapes, "free_memory", lambda device: 10e9)
    monkeypatch.setattr(shapes, "_processor_of", lambda name: pytest.fail("something was built"))
    with pytest.raises(BodaError, match=r"llama3-8b: its weights take 16\.1 GB in bfloat16, and 10\.0 GB"):
        shapes.build("llama3-8b", CPU, torch.bfloat16)


def test_an_unknown_shape_is_answered_with_all():
    with pytest.raises(BodaError, match=f"no shape 'llama'; there are {', '.join(shapes.SHAPES)}"):
        bench(shape="llama")


@pytest.mark.parametrize(
    "given, why",
    [
        ({"batches": [1, 0]}, "batch 0: at least 1"),
        ({"batches": []}, "batch 0: at least 1"),
        ({"prompt_tokens": 0}, "prompt tokens 0: at least 1"),
        ({"repetitions": 0}, "repetitions 0: at least 1"),
        ({"new_tokens": 1}, "new tokens 1: at least 2"),
        ({"images": -1}, "images -1: at least 0"),
        ({"shape": "llama3-8b"}, "a model or a shape"),
        ({"model": None}, "a model or a shape"),
        ({"model": "https://host/v1#name"}, "runs elsewhere"),
        ({"prompt_tokens": 3}, "3 prompt tokens: the chat template and one letter take"),
        ({"new_tokens": 500}, "more than the model's 512 positions"),
        ({"images": 60}, "60 pictures in it"),
        ({"model": "mini-clip", "new_tokens": 8}, "a pair model gives vectors"),
        ({"model": "mini-clip", "images": 1}, "a pair model gives vectors"),
        ({"model": "mini-clip", "prompt_tokens": 5000}, "reads at most"),
        ({"model": "/no/such/folder"}, "no model at"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict, why: str):
    with pytest.raises(BodaError, match=why):
        bench(**{"model": "mini", "quiet": True, **given})


def test_a_model_without_sight_is_asked_without_pictures():
    with pytest.raises(BodaError, match="without sight"):
        bench(language(), images=1, quiet=True)


# ---------------------------------------------------------------- the machine


def test_the_peak_is_seen_and_can_be_set_back():
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pytest.skip("this system does not set the peak back")
    peaks = [machine.peak_memory(CPU, reset=True)]
    held = torch.ones(25 << 20)  # 100 MiB
    del held
    peaks += [machine.peak_memory(CPU), machine.peak_memory(CPU, reset=True)]
    before, most, after = (peak or 0 for peak in peaks)
    assert most - before > 90 << 20 > after - before


def test_reading_is_measured():
    assert machine.read_bandwidth(CPU) > 1e6
    assert machine.free_memory(CPU) > 1e6
