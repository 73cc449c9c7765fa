"""Every readable file gives an upright RGB picture; every other one a reason."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import threading
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, TiffImagePlugin

from weakloc.data.images import _pillow_settings, image_size, open_image, pixels_of, read_or_record
from weakloc.errors import ImageError
from weakloc.structures import BrokenImage

WIDTH, HEIGHT = 37, 23
LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "BMP": {}, "PPM": {}}


def picture() -> Image.Image:
    random = np.random.default_rng(5)
    coarse = random.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def values(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png_of_size(width: int, height: int) -> bytes:
    """A header that promises more pixels than the file holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(("kind", "options"), LOSSLESS.items())
def test_lossless_formats_give_back_the_pixels(kind: str, options: dict[str, object]) -> None:
    opened = open_image(encoded(picture(), kind, **options))
    assert opened.mode == "RGB"
    np.testing.assert_array_equal(values(opened), values(picture()))


def test_jpeg_and_gif_are_close_to_the_pixels() -> None:
    smooth = picture().resize((WIDTH * 4, HEIGHT * 4), Image.Resampling.BICUBIC)
    jpeg = open_image(encoded(smooth, "JPEG", quality=95))
    assert np.abs(values(jpeg) - values(smooth)).mean() < 3
    few_colors = smooth.quantize(16).convert("RGB")
    np.testing.assert_array_equal(
        values(open_image(encoded(few_colors, "GIF"))), values(few_colors)
    )


def test_the_first_frame_of_an_animation_is_taken() -> None:
    first, second = Image.new("RGB", (9, 5), (250, 0, 0)), Image.new("RGB", (9, 5), (0, 0, 250))
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        options = {"lossless": True} if kind == "WEBP" else {}
        content = encoded(first, kind, save_all=True, append_images=[second], **options)
        assert open_image(content).getpixel((4, 2)) == (250, 0, 0), kind


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone_and_known_without_decoding(kind: str, orientation: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(picture(), kind, exif=tags, **options)
    with Image.open(io.BytesIO(content)) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB")
    np.testing.assert_array_equal(values(open_image(content)), values(expected))
    upright = (HEIGHT, WIDTH) if orientation >= 5 else (WIDTH, HEIGHT)
    assert image_size(content) == expected.size == upright


def test_orientation_6_puts_the_top_left_corner_at_the_top_right() -> None:
    stored = Image.new("RGB", (6, 4))
    stored.putpixel((0, 0), (255, 255, 255))
    tags = Image.Exif()
    tags[0x0112] = 6
    opened = open_image(encoded(stored, "PNG", exif=tags))
    assert opened.size == (4, 6)
    assert opened.getpixel((3, 0)) == (255, 255, 255)


@pytest.mark.parametrize("band", [1, 3 * WIDTH + 1, 10**6])
def test_16_bit_grey_is_scaled_over_its_whole_range(
    band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakloc.data.images._BAND_PIXELS", band)
    grey = np.linspace(0, 65535, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)
    expected = np.rint(grey / 257.0)
    for kind in ("PNG", "TIFF"):
        opened = values(open_image(encoded(Image.fromarray(grey), kind)))
        np.testing.assert_array_equal(opened, np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("band", [1, 3 * WIDTH + 1, 10**6])
def test_float_and_32_bit_grey_are_scaled_from_the_smallest_known_range(
    band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weakloc.data.images._BAND_PIXELS", band)
    ramp = np.linspace(0, 1, WIDTH * HEIGHT).reshape(HEIGHT, WIDTH)
    cases = [
        (ramp.astype(np.float32), ramp * 255),
        ((ramp * 255).astype(np.float32), ramp * 255),
        ((ramp * 4 - 2).astype(np.float32), ramp * 255),
        ((ramp * 65535).astype(np.int32), ramp * 255),
        ((ramp * 255).astype(np.int32), np.floor(ramp * 255)),
    ]
    for stored, expected in cases:
        opened = values(open_image(encoded(Image.fromarray(stored), "TIFF")))
        assert np.abs(opened[..., 0] - expected).max() <= 0.51


def test_12_bit_scans_are_scaled_over_their_own_range() -> None:
    packed = bytes([0xFF, 0xF0, 0x00, 0x80, 0x0F, 0xFF])  # 4095, 0, 2048, 4095
    tags = [(256, 2), (257, 2), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 2)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in [*tags, (279, 6)])
    content = b"II*\0" + struct.pack("<IH", 8, 9) + entries
    padding = b"\0" * (122 - len(content))
    opened = values(open_image(content + padding + packed))
    assert opened[..., 0].tolist() == [[255, 0], [128, 255]]


def test_a_color_mode_without_a_meaning_in_rgb_is_named() -> None:
    lab = Image.new("LAB", (5, 3), (100, 0, 0))
    with pytest.raises(ImageError, match="colour mode LAB"):
        open_image(encoded(lab, "TIFF"))


def test_an_image_inside_a_tar_file_opens_by_its_place(tmp_path: Path) -> None:
    content = encoded(picture(), "PNG")
    archive = tmp_path / "shard 0.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("a.png", "b.png"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with tarfile.open(archive) as tar:
        place = tar.getmember("b.png").offset_data
    path = f"{archive}::{place}+{len(content)}"
    np.testing.assert_array_equal(values(open_image(path)), values(picture()))
    assert image_size(path) == (WIDTH, HEIGHT)
    with pytest.raises(ImageError, match="damaged"):
        open_image(f"{archive}::{place}+100")


def test_a_float_image_with_holes_still_opens() -> None:
    stored = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    stored[3, 4] = np.nan
    opened = values(open_image(encoded(Image.fromarray(stored), "TIFF")))
    assert opened[3, 4, 0] == 0
    assert opened[0, 0, 0] == 128


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_show_white_and_half_transparent_ones_mix(mode: str) -> None:
    image = Image.new(mode, (5, 3), (0,) * (len(mode) - 1) + (0,))
    dark, half = (0,) * (len(mode) - 1) + (255,), (0,) * (len(mode) - 1) + (128,)
    image.putpixel((1, 2), dark)
    image.putpixel((4, 0), half)
    opened = open_image(encoded(image, "PNG"))
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert opened.getpixel((1, 2)) == (0, 0, 0)
    assert opened.getpixel((4, 0)) == (127, 127, 127)


def test_palette_images_keep_colors_and_lose_transparency() -> None:
    image = Image.new("P", (5, 3), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((2, 1), 0)
    plain = open_image(encoded(image, "PNG"))
    assert plain.getpixel((2, 1)) == (10, 20, 30)
    assert plain.getpixel((0, 0)) == (200, 100, 50)
    for transparency in (0, b"\x00\xff"):
        opened = open_image(encoded(image, "PNG", transparency=transparency))
        assert opened.getpixel((2, 1)) == (255, 255, 255)
        assert opened.getpixel((0, 0)) == (200, 100, 50)


def test_a_transparent_color_of_an_rgb_png_shows_white() -> None:
    image = Image.new("RGB", (5, 3), (1, 2, 3))
    image.putpixel((0, 0), (9, 9, 9))
    opened = open_image(encoded(image, "PNG", transparency=(1, 2, 3)))
    assert opened.getpixel((0, 0)) == (9, 9, 9)
    assert opened.getpixel((4, 2)) == (255, 255, 255)


def test_1_bit_grey_and_cmyk_become_rgb() -> None:
    bits = Image.new("1", (9, 5))
    bits.putpixel((7, 3), 1)
    for kind in ("PNG", "TIFF", "BMP"):
        opened = open_image(encoded(bits, kind))
        assert opened.getpixel((7, 3)) == (255, 255, 255)
        assert opened.getpixel((0, 0)) == (0, 0, 0)
    grey = picture().convert("L")
    expected = np.repeat(values(grey)[..., None], 3, axis=2)
    np.testing.assert_array_equal(values(open_image(encoded(grey, "PNG"))), expected)
    inks = Image.new("CMYK", (16, 8), (255, 0, 0, 0))
    for kind in ("JPEG", "TIFF"):
        red, green, blue = open_image(encoded(inks, kind)).getpixel((5, 5))
        assert red < 5
        assert min(green, blue) > 250


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "really a png.jpg"
    path.write_bytes(encoded(picture(), "PNG"))
    for source in (path, str(path), path.read_bytes()):
        np.testing.assert_array_equal(values(open_image(source)), values(picture()))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_an_opened_picture_no_longer_needs_its_file(kind: str, tmp_path: Path) -> None:
    options = {"save_all": True, "append_images": [picture()]} if kind in ("TIFF", "WEBP") else {}
    path = tmp_path / "a"
    path.write_bytes(encoded(picture(), kind, **options))
    opened = open_image(path)
    path.unlink()
    with opened as image:
        image.load()
        assert image.resize((5, 4)).size == (5, 4)
        assert pickle.loads(pickle.dumps(image)).size == (WIDTH, HEIGHT)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    bomb = png_of_size(40_000, 30_000)
    for reading in (open_image, image_size):
        with pytest.raises(ImageError, match=r"1,200,000,000 pixels \(40000 x 30000\).*max_pixels"):
            reading(bomb)
    limit = WIDTH * HEIGHT
    assert open_image(encoded(picture(), "PNG"), max_pixels=limit).size == (WIDTH, HEIGHT)
    with pytest.raises(ImageError, match="the limit is 850"):
        open_image(encoded(picture(), "PNG"), max_pixels=limit - 1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_pillows_own_limit_neither_warns_nor_changes(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encoded(picture(), kind)
    for pillow_limit in (WIDTH * HEIGHT - 1, 100):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
        filters = list(warnings.filters)
        assert open_image(content).size == (WIDTH, HEIGHT)
        assert pillow_limit == Image.MAX_IMAGE_PIXELS
        assert warnings.filters == filters


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_a_truncated_file_is_an_image_error_wherever_it_is_cut(kind: str) -> None:
    content = encoded(picture(), kind)
    reasons = set()
    for length in range(0, len(content) * 9 // 10, max(len(content) // 40, 1)):
        with pytest.raises(ImageError) as caught:
            open_image(content[:length], name="cut")
        reasons.add(str(caught.value).split("(")[0].strip())
    assert "cut: is empty" in reasons
    assert any("damaged" in reason for reason in reasons)


def test_random_damage_never_raises_anything_but_an_image_error(
    random: np.random.Generator,
) -> None:
    tags = Image.Exif()
    tags[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"):
        options = {"exif": tags} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
        content = np.frombuffer(encoded(picture(), kind, **options), np.uint8)
        for _ in range(60):
            damaged = content.copy()
            places = random.integers(0, len(damaged), size=8)
            damaged[places] = random.integers(0, 256, size=8)
            result = read_or_record("a", damaged.tobytes(), max_pixels=1_000_000)
            assert isinstance(result, BrokenImage) or result.mode == "RGB"


def test_damaged_exif_is_ignored_without_a_warning() -> None:
    for content in (b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12"):
        opened = open_image(encoded(picture(), "JPEG", exif=content))
        assert opened.size == (WIDTH, HEIGHT)


def test_what_is_no_file_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "folder.jpg"
    folder.mkdir()
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.touch()
    text.write_text("hello")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    reasons = {
        folder: "is a folder, not an image",
        empty: r"is empty \(0 bytes\)",
        text: r"not an image of a known format \(it starts with b'hello'\)",
        tmp_path / "missing.jpg": "there is no such file",
        tmp_path / "loop.jpg": "cannot be opened",
        tmp_path / ("n" * 300): "cannot be opened",
    }
    for path, reason in reasons.items():
        for reading in (open_image, image_size):
            with pytest.raises(ImageError, match=reason) as caught:
                reading(path)
            assert caught.value.location == str(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        open_image(tmp_path / "pipe.jpg")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator may read everything"
)
def test_a_forbidden_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(picture(), "PNG"))
    path.chmod(0)
    with pytest.raises(ImageError, match="permission denied"):
        open_image(path)


def test_a_forbidden_file_is_told_from_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    (tmp_path / "a.png").touch()
    os.truncate(tmp_path / "a.png", 10)
    with pytest.raises(ImageError, match="permission denied"):
        open_image(str(tmp_path / "a.png"))


def test_read_or_record_names_the_sample_and_the_reason() -> None:
    assert read_or_record("a/b.jpg", b"") == BrokenImage("a/b.jpg", "is empty (0 bytes)")
    opened = read_or_record("a/b.jpg", encoded(picture(), "PNG"))
    assert isinstance(opened, Image.Image)


def test_shrink_to_keeps_both_sides_and_the_upright_frame() -> None:
    large = picture().resize((800, 520), Image.Resampling.BICUBIC)
    tags = Image.Exif()
    tags[0x0112] = 6
    content = encoded(large, "JPEG", quality=95, exif=tags)
    full, reduced = open_image(content), open_image(content, shrink_to=(120, 190))
    assert full.size == (520, 800)
    assert reduced.size == (130, 200)
    reference = full.resize((130, 200), Image.Resampling.BOX)
    assert np.abs(values(reduced) - values(reference)).mean() < 1.5
    unchanged = open_image(encoded(large, "PNG"), shrink_to=(10, 10))
    assert unchanged.size == large.size


def test_no_image_waits_for_the_pixels_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []
    for parser in (TiffImagePlugin.TiffImageFile, PngImagePlugin.PngImageFile):
        load = parser.load

        def loading(image: ImageFile.ImageFile, load: Callable[..., Any] = load) -> Any:
            held.append(_pillow_settings.locked())
            return load(image)

        monkeypatch.setattr(parser, "load", loading)
    for kind in ("TIFF", "PNG"):
        open_image(encoded(picture(), kind))
    assert held
    assert not any(held)


def test_a_jpeg_of_thousands_of_scans_is_refused_without_decoding(tmp_path: Path) -> None:
    content = encoded(picture(), "JPEG", progressive=True)
    assert open_image(content).size == (WIDTH, HEIGHT)
    last = content[content.rindex(b"\xff\xda") : -2]
    file = tmp_path / "a.jpg"
    file.write_bytes(content[:-2] + 2000 * last + content[-2:])
    with pytest.raises(ImageError, match=r"has 2,0\d\d scans, over 200"):
        open_image(file)


def test_damaged_tags_of_a_tiff_are_no_news() -> None:
    tags = Image.Exif()
    tags[274] = 3
    content = bytearray(encoded(picture(), "TIFF", exif=tags))
    content[content.index(struct.pack("<HHI", 274, 3, 1)) + 4] = 57  # entries instead of one
    with suppress(ImageError):  # a warning would be another error in here
        open_image(bytes(content))


def test_pixels_of_any_size_are_those_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    large = picture().resize((203, 160))
    for band in (1, 3 * 203, 10**6):  # a row at a time, three, and all at once
        monkeypatch.setattr("weakloc.data.images._BAND_PIXELS", band)
        np.testing.assert_array_equal(pixels_of(large), np.asarray(large))


def test_wide_grey_values_never_take_their_size_in_floats() -> None:
    content = encoded(Image.new("I;16", (3000, 1000), 9), "PNG")
    tracemalloc.start()
    assert open_image(content).size == (3000, 1000)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 3000 * 1000 * 8 / 2


def test_threads_may_open_images_at_the_same_time() -> None:
    contents = [encoded(picture(), kind) for kind in ("TIFF", "PNG", "JPEG", "WEBP")] * 8
    expected = [values(open_image(content)) for content in contents]
    filters = list(warnings.filters)
    results: dict[int, NDArray[np.int64]] = {}

    def read(number: int) -> None:
        for _ in range(10):
            results[number] = values(open_image(contents[number]))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, pixels in enumerate(expected):
        np.testing.assert_array_equal(results[number], pixels)
    assert warnings.filters == filters
