"""Pictures: every colour mode and orientation comes out right, and fitting equals what the processors of transformers give."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    LlavaNextImageProcessorPil,
    LlavaProcessor,
    PixtralImageProcessorPil,
    Qwen2VLImageProcessorPil,
    SiglipImageProcessorPil,
    ViTImageProcessorPil,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from boda.data.images import ImageSpec, fit_image, load_image, probe_image
from boda.data.sample import ImageRef
from boda.errors import BodaError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
SQUARE = {"height": 32, "width": 32}
PROCESSORS = {
    "clip": (CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE), ("crop", 32)),
    "siglip": (SiglipImageProcessorPil(size=SQUARE), ("stretch", 32)),
    "vit": (ViTImageProcessorPil(size=SQUARE), ("stretch", 32)),
    "convnext": (ConvNextImageProcessorPil(size={"shortest_edge": 28}), ("crop", 28)),
    "convnext-large": (ConvNextImageProcessorPil(size={"shortest_edge": 384}), ("stretch", 384)),
    "dinov2": (BitImageProcessorPil(size={"shortest_edge": 36}, crop_size=SQUARE), ("crop", 32)),
    "llava": (LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": 32}, crop_size=SQUARE), ("pad", 32)),
}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels_of(processor, image: Image.Image) -> np.ndarray:
    return processor(image, return_tensors="np")["pixel_values"][0]


# --- decoding -------------------------------------------------------------------------------------------------------------


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putdata([0, 1])
    if transparent:
        image.info["transparency"] = 1
    return image


def two_pixels(mode: str, *values) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    image.putdata(values)
    return image


@pytest.mark.parametrize(
    "image, format, expected",
    [
        (two_pixels("RGB", RED, BLUE), "PNG", [RED, BLUE]),
        (two_pixels("1", 0, 255), "PNG", [(0, 0, 0), WHITE]),
        (two_pixels("L", 7, 200), "PNG", [(7, 7, 7), (200, 200, 200)]),
        (two_pixels("LA", (10, 255), (10, 0)), "PNG", [(10, 10, 10), WHITE]),
        (two_pixels("RGBA", (*RED, 255), (*RED, 0)), "PNG", [RED, WHITE]),
        (two_pixels("RGBA", (0, 0, 0, 128), (*RED, 255)), "PNG", [(127, 127, 127), RED]),
        (two_pixels("RGBA", (*RED, 255), (*RED, 0)), "WEBP", [RED, WHITE]),
        (palette(transparent=False), "PNG", [RED, BLUE]),
        (palette(transparent=True), "PNG", [RED, WHITE]),
        (palette(transparent=True), "GIF", [RED, WHITE]),
        (two_pixels("CMYK", (0, 255, 255, 0), (0, 0, 0, 0)), "TIFF", [RED, WHITE]),
        (two_pixels("F", 0.0, 1.0), "TIFF", [(0, 0, 0), WHITE]),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_colour_modes_become_rgb(image: Image.Image, format: str, expected: list):
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    loaded = load_image(encoded(image, format, **options))
    assert loaded.mode == "RGB"
    assert [loaded.getpixel((x, 0)) for x in range(2)] == expected


@pytest.mark.parametrize("mode, format", [("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF"), ("I", "TIFF")])
def test_sixteen_bits_are_scaled_not_clipped(mode: str, format: str):
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    image = Image.fromarray(values)
    if mode == "I":
        image = Image.fromarray(values.astype(np.int32))
    elif mode == "I;16B":
        image = Image.frombytes("I;16B", (4, 1), values.astype(">u2").tobytes())
    loaded = np.asarray(load_image(encoded(image, format)))
    assert loaded[0, :, 0].tolist() == [0, 1, 128, 255]


def test_sixteen_bits_with_a_transparent_grey():
    values = np.array([[0, 1000, 65535]], np.uint16)
    loaded = load_image(encoded(Image.fromarray(values), transparency=1000))
    assert [loaded.getpixel((x, 0))[0] for x in range(3)] == [0, 255, 255]


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, GREEN, BLUE)]
    for format in ("GIF", "PNG", "WEBP"):
        data = encoded(
            frames[0], format, save_all=True, append_images=frames[1:], **({"lossless": True} if format == "WEBP" else {})
        )
        assert load_image(data).getpixel((0, 0)) == RED, format


def test_cmyk_jpeg_with_and_without_adobes_mark_have_the_same_colours():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    with_mark = encoded(cmyk, "JPEG", quality=100)
    start = with_mark.index(b"\xff\xee")
    length = int.from_bytes(with_mark[start + 2 : start + 4], "big")
    assert with_mark[start + 4 : start + 9] == b"Adobe"
    plain = encoded(ImageChops.invert(cmyk), "JPEG", quality=100)  # Pillow writes Adobe's inverted form; this undoes it
    without_mark = plain[:start] + plain[start + 2 + length :]
    for data in (with_mark, without_mark):
        assert np.abs(np.asarray(load_image(data), int) - RED).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int):
    corners = Image.new("RGB", (16, 8))
    for box, colour in (((0, 0), RED), ((8, 0), GREEN), ((0, 4), BLUE)):
        corners.paste(colour, (*box, box[0] + 8, box[1] + 4))
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)  # how a camera held so would have stored it
    stored = corners if turn is None else corners.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for format, options in (("PNG", {}), ("JPEG", {"quality": 100, "subsampling": 0}), ("TIFF", {})):
        data = encoded(stored, format, exif=exif, **options)
        loaded = load_image(data)
        assert loaded.size == probe_image(data) == (16, 8), format
        assert np.abs(np.asarray(loaded, int) - np.asarray(corners, int)).max() < 12, format


def test_broken_exif_is_no_orientation():
    data = encoded(noise(8, 6), "JPEG", exif=b"Exif\0\0garbage that is no TIFF")
    assert load_image(data).size == probe_image(data) == (8, 6)


def test_what_a_picture_may_be_given_as(tmp_path):
    image = noise(5, 4)
    path = tmp_path / "그림.png"
    image.save(path)
    uri = "data:image/png;base64," + __import__("base64").b64encode(path.read_bytes()).decode()
    for ref in (path, str(path), path.read_bytes(), ImageRef(str(path)), ImageRef(data=path.read_bytes()), image, uri):
        assert np.array_equal(load_image(ref), image)
        assert probe_image(ref) == (5, 4)


def test_a_loaded_picture_is_a_copy():
    image = noise(4, 4)
    loaded = load_image(image)
    loaded.paste(RED, (0, 0, 4, 4))
    assert image.getpixel((0, 0)) != RED


# --- fitting --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSORS)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(0, 1000))
def test_fitting_equals_the_processor(name: str, width: int, height: int, seed: int):
    processor, (fit, size) = PROCESSORS[name]
    if size > 100:  # large output: shapes are covered by the others
        width, height = width % 7 + 1, height % 7 + 1
    spec = ImageSpec.from_processor(processor)
    assert (spec.fit, spec.size) == (fit, size)
    image = noise(width, height, seed)
    fitted = fit_image(image, spec)
    assert fitted.dtype == np.float32 and fitted.shape == (3, size, size)
    np.testing.assert_array_equal(fitted, pixels_of(processor, image))
    np.testing.assert_array_equal(fitted, pixels_of(spec.to_processor(), image))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size, resize", [(14, 0), (14, 16)])
def test_a_saved_processor_loads_by_name_and_gives_the_same(tmp_path, fit: str, size: int, resize: int):
    spec = ImageSpec(size, fit, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), resample=2, resize=resize if fit == "crop" else 0)
    spec.to_processor().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    # The names that both backends of transformers answer to.
    assert saved["image_processor_type"] == ("LlavaImageProcessor" if fit == "pad" else "CLIPImageProcessor")
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    image = noise(33, 21)
    np.testing.assert_array_equal(pixels_of(loaded, image), fit_image(image, spec))
    assert ImageSpec.from_processor(loaded) == spec


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_saved_llava_processor_gives_the_same(tmp_path, fit: str, tiny_tokenizer):
    spec = ImageSpec(28, fit)
    processor = LlavaProcessor(spec.to_processor(), tiny_tokenizer, patch_size=14, vision_feature_select_strategy="full")
    processor.save_pretrained(tmp_path)
    image = noise(40, 25)
    inputs = AutoProcessor.from_pretrained(tmp_path)(images=image, text="<image>", return_tensors="np")
    np.testing.assert_array_equal(inputs["pixel_values"][0], fit_image(image, spec))
    assert (inputs["input_ids"][0] == processor.image_token_id).sum() == 4


@pytest.fixture(scope="module")
def tiny_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<image>": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", additional_special_tokens=["<image>"])


@pytest.mark.parametrize(
    "processor",
    [
        LlavaNextImageProcessorPil(),
        PixtralImageProcessorPil(),
        Qwen2VLImageProcessorPil(),
        CLIPImageProcessorPil(do_center_crop=False),
        CLIPImageProcessorPil(do_rescale=False),
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 16}),
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=SQUARE),
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_processors_that_no_spec_describes_are_refused(processor):
    with pytest.raises(BodaError, match=type(processor).__name__):
        ImageSpec.from_processor(processor)


def test_a_processor_that_does_something_of_its_own_is_refused():
    class Flipping(CLIPImageProcessorPil):
        def _preprocess(self, images, **options):
            return super()._preprocess([image[:, :, ::-1] for image in images], **options)

    with pytest.raises(BodaError, match="Flipping does more than crop to 32"):
        ImageSpec.from_processor(Flipping(size={"shortest_edge": 32}, crop_size=SQUARE))


def test_a_processor_without_normalisation_keeps_the_0_to_1_scale():
    processor = CLIPImageProcessorPil(do_normalize=False, size={"shortest_edge": 32}, crop_size=SQUARE)
    spec = ImageSpec.from_processor(processor)
    image = noise(40, 30)
    np.testing.assert_array_equal(fit_image(image, spec), pixels_of(processor, image))


def test_refit_keeps_the_share_that_a_crop_cuts_off():
    spec = ImageSpec(224, "crop", resize=256)
    assert (spec.refit(448).resize, spec.refit(448).fit) == (512, "crop")
    assert spec.refit(fit="pad").fit == "pad"
    assert ImageSpec(224).refit(336) == ImageSpec(336)


def test_padding_is_centred_and_has_the_mean_colour():
    spec = ImageSpec(4, "pad", mean=(0.5, 0.25, 0.0), std=(1.0, 1.0, 1.0), resample=0)
    fitted = fit_image(Image.new("RGB", (4, 2), WHITE), spec)
    assert np.allclose(fitted[:, 1:3], [[[0.5]], [[0.75]], [[1.0]]])
    background = np.array([int(0.5 * 255) / 255 - 0.5, int(0.25 * 255) / 255 - 0.25, 0.0])
    assert np.allclose(fitted[:, [0, 3]], background[:, None, None], atol=1e-6)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_very_long_pictures_need_no_giant_square(fit: str):
    fitted = fit_image(Image.new("RGB", (20_000, 100), RED), ImageSpec(16, fit))
    assert fitted.shape == (3, 16, 16) and np.isfinite(fitted).all()


@pytest.mark.parametrize("options", [{"fit": "squash"}, {"size": 0}, {"size": 32, "resize": 16}])
def test_impossible_specs(options: dict):
    with pytest.raises(BodaError, match="image"):
        ImageSpec(**{"size": 32, **options})
