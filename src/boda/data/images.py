"""Pictures: decode within bounds, bring to RGB, fit to what a vision tower takes exactly as its processor does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageChops, ImageFile, UnidentifiedImageError

from boda.data.sample import ImageRef, image_from_uri
from boda.errors import WHY, BodaError, explaining

MAX_PIXELS = 100_000_000
MAX_ASPECT = 200
# Formats whose decoders are plain code: Pillow would hand EPS to Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO")
READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF, JPEG 2000 and AVIF can be read"
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is the bound here
# The padded square is made before it is scaled; beyond this side the picture is shrunk first to bound memory.
MAX_SQUARE = 10_000
# What makes a picture of an EXIF orientation upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Picture = ImageRef | bytes | str | Path | Image.Image


def load_image(ref: Picture) -> Image.Image:
    """A picture (a str is a path or a `data:` address) as upright RGB: first frame, transparency on white, 16-bit scaled to 8.

    Raises BodaError where it is not there, not a picture, cut off, or out of bounds; says which picture and what would work.
    """
    with _opened(ref) as (image, name), _decoding(name):
        image.load()
        turn = _TURNS.get(_orientation(image))
        rgb = _to_rgb(image, name)
        return rgb if turn is None else rgb.transpose(turn)


def probe_image(ref: Picture) -> tuple[int, int]:
    """(width, height) that `load_image` will give, from the header alone; raises what `load_image` raises for headers."""
    with _opened(ref) as (image, _):
        width, height = image.size
        # Pillow turns TIFFs itself; asking a PNG for an orientation that stands after its pixels would decode them all.
        turned = "exif" in image.info and image.format != "TIFF" and _orientation(image) >= 5
        return (height, width) if turned else (width, height)


@contextmanager
def _opened(ref: Picture) -> Iterator[tuple[Image.Image, str]]:
    """The picture with its header read and its bounds checked, and its name for messages."""
    if isinstance(ref, ImageRef) and ref.drawn:
        ref = ref.picture()  # pixels at once, without a way through bytes
    if isinstance(ref, Image.Image):
        name = getattr(ref, "filename", "") or "picture in memory"
        _check_bounds(ref, name)
        yield ref, name
        return
    if isinstance(ref, (bytes, bytearray, memoryview)):
        ref = ImageRef(data=bytes(ref))
    elif isinstance(ref, (str, Path)):
        ref = image_from_uri(str(ref)) if str(ref).startswith("data:") else ImageRef(str(ref))
    name = str(ref)
    with _stream(ref) as stream:
        start = stream.read(64)
        stream.seek(0)
        if not start:
            raise BodaError(f"{name} is empty (0 bytes); fetch it again")
        with _decoding(name, start):
            image = Image.open(stream, formats=FORMATS)
        with image:
            _check_bounds(image, name)
            yield image, name


def _stream(ref: ImageRef) -> BinaryIO:
    """The encoded picture, not read into memory where it is a file of its own."""
    if ref.data is None and not ref.member and ref.row < 0:
        with explaining(f"no picture at {ref} ({WHY})", OSError):
            return open(ref.path, "rb")
    return BytesIO(ref.read())


def _check_bounds(image: Image.Image, name: str) -> None:
    width, height = image.size
    if not width or not height:
        raise BodaError(f"{name} is {width} x {height} pixels: there is nothing in it; leave it out")
    if width * height >= MAX_PIXELS:
        raise BodaError(
            f"{name} is {width} x {height} pixels ({width * height / 1e6:.0f} megapixels); pictures below "
            f"{MAX_PIXELS // 10**6} megapixels are read: scale it down"
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BodaError(f"{name} is {width} x {height} pixels, more than {MAX_ASPECT} times longer than wide; crop it")


@contextmanager
def _decoding(name: str, start: bytes = b"") -> Iterator[None]:
    """Turns whatever a decoder raises on broken bytes into one BodaError, and never lets missing bytes become grey."""
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    except (BodaError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BodaError(f"{name} is no picture{_looks_like(start)}; {READABLE}") from error
    except Image.DecompressionBombError as error:
        raise BodaError(f"{name} has over {MAX_PIXELS // 10**6} megapixels ({error}); scale it down") from error
    except Exception as error:  # Pillow's decoders raise anything from struct.error to IndexError
        if "truncated" in str(error).lower() or isinstance(error, EOFError):
            raise BodaError(f"{name} is cut off: its end is missing ({error}); fetch it again") from error
        raise BodaError(f"{name} is damaged and cannot be decoded ({type(error).__name__}: {error}); fetch it again") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def _looks_like(start: bytes) -> str:
    if start.startswith((b"\xff\xd8", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"RIFF", b"BM")) or start[4:8] == b"ftyp":
        return f" that can be read: it begins as one ({start[:8]!r}) but is cut off or damaged, fetch it again"
    if start.startswith(b"version https://git-lfs"):
        return " but a Git LFS pointer: run git lfs pull"
    if start.lstrip()[:1] == b"<":
        return " but text (a web page or SVG): " + repr(start[:40].decode("utf-8", "replace"))
    return f": it begins with {start[:12]!r}"


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # broken EXIF: no orientation is stated, as for every viewer
        return 1
    return value if value in _TURNS else 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _wide_grey_to_rgb(image, name)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode == "CMYK" and image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        image = ImageChops.invert(image)  # Pillow takes every CMYK JPEG for Adobe's, which are stored inverted
    return image.convert("RGB")


def _wide_grey_to_rgb(image: Image.Image, name: str) -> Image.Image:
    """16-bit grey (and floats in 0..1) scaled to 8 bits; Pillow's own conversion would clip at 255."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    most = 1 if image.mode == "F" else 65535
    if not (low >= 0 and high <= most):  # written so that NaN fails
        unknown = f"which of them is white is not known beyond 0..{most}"
        raise BodaError(f"{name} has grey values from {low} to {high}; {unknown}: save it as 8-bit")
    grey = (values * 255.0 / most + 0.5).astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey).convert("RGB")


@dataclass(frozen=True)
class ImageSpec:
    """What a vision tower takes: a square of `size` pixels, and how a picture becomes one.

    Fit `crop` scales the shorter side to `resize` and keeps the middle; `pad` puts the whole picture in the middle of a square of
    the mean colour, then scales; `stretch` scales both sides to `size`. Mean and std are by channel, on the 0..1 scale.
    """

    size: int
    fit: str = "crop"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resample: int = 3  # Pillow's filter number: 2 bilinear, 3 bicubic
    resize: int = 0  # 0: `size`

    def __post_init__(self):
        if self.fit not in ("crop", "pad", "stretch"):
            raise BodaError(f"image fit '{self.fit}' is none of crop, pad, stretch")
        if self.size < 1 or (self.resize and self.resize < self.size):
            sizes = f"image size {self.size} with resize {self.resize or self.size}"
            raise BodaError(f"{sizes}: sizes are at least 1, resize at least size")

    def refit(self, size: int | None = None, fit: str | None = None) -> ImageSpec:
        """The same tower fed at another size or with another fit; the margin that a crop cuts off keeps its share."""
        size = size or self.size
        return replace(self, size=size, fit=fit or self.fit, resize=round(self.resize * size / self.size))

    @classmethod
    def from_processor(cls, processor) -> ImageSpec:
        """The spec of a transformers image processor (CLIP, SigLIP, ViT, ConvNeXt, BiT/DINOv2, LLaVA; any backend).

        Raises BodaError where it does what no spec describes (several crops, sizes that depend on the picture, ...).
        """
        spec = cls._read_attributes(processor)
        # Attributes say little about what a class does with them, so it is asked: one picture, both ways.
        ramp = np.linspace(0, 255, 61 * 43 * 3).reshape(43, 61, 3) * np.linspace(0.2, 1, 61)[:, None]
        picture = Image.fromarray(ramp.astype(np.uint8))
        given = np.asarray(processor(picture, return_tensors="pt")["pixel_values"], np.float32)
        ours = fit_image(picture, spec)
        if given.shape != (1, *ours.shape) or np.abs(given[0] - ours).max() > 0.1:  # torchvision rounds differently
            more = f"does more than {spec.fit} to {spec.size} pixels"
            raise BodaError(f"{type(processor).__name__} {more}; it cannot be used here")
        return spec

    @classmethod
    def _read_attributes(cls, processor) -> ImageSpec:
        said: Any = partial(getattr, processor)

        def refuse(why: str) -> BodaError:
            works = "image processors that give one square of fixed size (CLIP, SigLIP, ViT, ...) work"
            return BodaError(f"{type(processor).__name__} {why}; {works}")

        size = dict(said("size", None) or {})
        if not said("do_resize", True) or not size:
            raise refuse("does not resize")
        if not said("do_rescale", True) or abs(said("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
            raise refuse("does not rescale by 1/255")
        crop_size = dict(said("crop_size", None) or {}) if said("do_center_crop", False) else {}
        if not set(size) <= {"height", "width", "shortest_edge"} or not set(crop_size) <= {"height", "width"}:
            raise refuse(f"has size {size}")
        mean, std = (processor.image_mean, processor.image_std) if said("do_normalize", True) else (0.0, 1.0)
        resample = Image.Resampling.BILINEAR if processor.resample is None else processor.resample
        rest: dict[str, Any] = {"mean": _three(mean), "std": _three(std), "resample": int(resample)}
        short = size.get("shortest_edge", 0)
        if short and hasattr(processor, "crop_pct"):  # ConvNeXt: what size means depends on the size
            return cls(short, "stretch", **rest) if short >= 384 else cls(short, resize=int(short / processor.crop_pct), **rest)
        sides = set(crop_size.values()) or {size.get("height", 0), size.get("width", 0)}
        if short and hasattr(processor, "pad_to_square") and processor.do_pad and (not crop_size or sides == {short}):
            return cls(short, "pad", **rest)
        if len(sides) == 1 and crop_size and short >= min(sides):
            return cls(min(sides), "crop", resize=0 if sides == {short} else short, **rest)
        if len(sides) == 1 and set(size.values()) == sides and not said("do_pad", False):
            return cls(min(sides), "stretch", **rest)
        raise refuse(f"has size {size} and crop {crop_size or 'none'}")

    def to_processor(self):
        """A transformers image processor that gives what `fit_image` gives, to be saved in a model folder.

        The names it is saved under (CLIPImageProcessor, LlavaImageProcessor) are those `AutoImageProcessor` resolves with
        and without torchvision; torchvision scales slightly differently, `backend="pil"` gives these values anywhere.
        """
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
        from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

        square = {"height": self.size, "width": self.size}
        common = {"crop_size": square, "image_mean": list(self.mean), "image_std": list(self.std), "resample": self.resample}
        if self.fit == "pad":
            return LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": self.size}, **common)
        if self.fit == "stretch":
            return CLIPImageProcessorPil(do_center_crop=False, size=square, **common)
        return CLIPImageProcessorPil(size={"shortest_edge": self.resize or self.size}, **common)


def _three(value) -> tuple[float, float, float]:
    values = tuple(float(x) for x in value) if isinstance(value, (list, tuple)) else (float(value),) * 3
    if len(values) != 3:
        raise BodaError(f"mean and std have one value for each of three channels, not {len(values)}")
    return values  # type: ignore[return-value]


def fit_image(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """The picture as the tower takes it: float32 (3, H, W), the same numbers as `spec.to_processor()` gives."""
    if image.mode != "RGB":
        image = _to_rgb(image, "picture in memory")
    size = (spec.size, spec.size)
    if spec.fit == "pad":
        image = _pad_to_square(image, spec.mean).resize(size, spec.resample)
    elif spec.fit == "stretch":
        image = image.resize(size, spec.resample)
    else:
        short = spec.resize or spec.size
        long = int(short * max(image.size) / min(image.size))
        image = image.resize((short, long) if image.width <= image.height else (long, short), spec.resample)
        left, top = (image.width - spec.size) // 2, (image.height - spec.size) // 2
        image = image.crop((left, top, left + spec.size, top + spec.size))
    pixels = np.asarray(image)
    values = np.empty((3, spec.size, spec.size), np.float32)
    for channel, table in enumerate(_tables(spec.mean, spec.std)):
        np.take(table, pixels[..., channel], out=values[channel], mode="clip")
    return values


def _pad_to_square(image: Image.Image, mean: tuple[float, float, float]) -> Image.Image:
    if max(image.size) > MAX_SQUARE:
        image = image.reduce(-(-max(image.size) // MAX_SQUARE))
    if image.width == image.height:
        return image
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(x * 255) for x in mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


@lru_cache(maxsize=16)
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """(3, 256): the value of each pixel level by channel, rounded as the processors round."""
    levels = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    shift, scale = np.array(mean, np.float32)[:, None], np.array(std, np.float32)[:, None]
    return (levels - shift) / scale
