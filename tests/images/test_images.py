"""Reading, laying out and writing images."""

from __future__ import annotations

import io
import resource
import struct
import warnings
import zlib

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms

from ssdiff.errors import DataError, OutputError, ResourceError, UsageError
from ssdiff.files import check_output, write_atomic
from ssdiff.images import (
    film_strip,
    fit,
    from_uint8,
    grid,
    read_image,
    save_gif,
    save_image,
    to_uint8,
    upscale_nearest,
)

bytes_image = hnp.arrays(np.uint8, st.tuples(st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9)))


def encode(image, form="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def colours(height=7, width=5):
    """An image without any symmetry."""
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3) * 2


def read_bytes(content, **options):
    return to_uint8(read_image(content, **options)).permute(1, 2, 0).numpy()


# Bytes and floats


def test_bytes_survive_the_round_trip():
    every = torch.arange(256, dtype=torch.uint8)
    assert from_uint8(every).min() == -1 and from_uint8(every).max() == 1
    for dtype in (torch.float32, torch.float64, torch.float16):
        assert torch.equal(to_uint8(from_uint8(every, dtype)), every)


def test_bytes_become_the_floats_that_training_has_always_seen():
    every = torch.arange(256, dtype=torch.uint8)
    expected = torch.tensor(every.numpy(), dtype=torch.float32) * (2 / 255) - 1
    assert torch.equal(from_uint8(every), expected)
    assert torch.equal(from_uint8(every), every.float().mul_(2 / 255).sub_(1))


@given(st.floats(-3, 3, width=32))
def test_to_uint8_rounds_to_the_nearest_and_clips(value):
    byte = to_uint8(torch.tensor(value)).item()
    assert abs(byte - (min(max(value, -1), 1) + 1) * 127.5) <= 0.5 + 1e-4


@given(bytes_image)
@settings(max_examples=25)
def test_png_keeps_every_byte(pixels):
    x = torch.from_numpy(pixels)
    content = encode(Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))
    assert torch.equal(to_uint8(read_image(content, channels=len(pixels))), x)


# Reading


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_undone(form, orientation):
    undo = {2: "fliplr", 3: "rot180", 4: "flipud", 5: "transpose", 6: "rot90", 7: "transverse", 8: "rot270"}
    upright = np.zeros((32, 24, 3), np.uint8)
    upright[:8, :8], upright[24:, :8] = (250, 10, 10), (10, 250, 10)
    stored = {
        "fliplr": upright[:, ::-1],
        "rot180": upright[::-1, ::-1],
        "flipud": upright[::-1],
        "transpose": upright.transpose(1, 0, 2),
        "rot90": np.rot90(upright, 1),  # the viewer turns it clockwise
        "transverse": upright[::-1, ::-1].transpose(1, 0, 2),
        "rot270": np.rot90(upright, -1),
    }.get(undo.get(orientation, ""), upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(np.ascontiguousarray(stored)), form, exif=exif, quality=100)
    found = read_bytes(content)
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < (0.1 if form == "PNG" else 6)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_not_clipped(form):
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    found = read_bytes(encode(Image.fromarray(ramp), form))
    assert found.shape == (64, 64, 1)
    assert np.abs(found[:, :, 0] - ramp / 257).max() <= 0.5 + 1e-6
    colour = read_bytes(encode(Image.fromarray(ramp), form), channels=3)
    assert (colour == found).all()


def test_16_bit_grey_that_means_transparent():
    ramp = np.array([[0, 30000], [65535, 30000]], np.uint16)
    content = encode(Image.fromarray(ramp), transparency=30000)
    assert read_bytes(content, background=1.0)[:, :, 0].tolist() == [[0, 255], [255, 255]]


def test_floating_point_from_0_to_1_and_nothing_else():
    unit = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    assert np.abs(read_bytes(encode(Image.fromarray(unit), "TIFF"))[:, :, 0] - unit * 255).max() <= 0.5
    for bad in (unit * 2, unit - 0.1, np.full((3, 4), np.nan, np.float32), np.full((3, 4), 70000, np.int32)):
        with pytest.raises(DataError, match="unknown"):
            read_image(encode(Image.fromarray(bad), "TIFF"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_transparent_pixels_show_the_background(mode):
    pixels = np.full((2, 2, 4), (200, 200, 200, 255), np.uint8)
    pixels[0, 0] = (10, 10, 10, 0)  # a hidden colour
    image = Image.fromarray(pixels).convert(mode if mode in ("RGBA", "LA") else "RGB")
    options = {}
    if mode in ("P", "L"):
        image = image.quantize(4) if mode == "P" else image.convert(mode)
        options["transparency"] = image.getpixel((0, 0))
    elif mode == "RGB":
        options["transparency"] = (10, 10, 10)
    found = read_bytes(encode(image, **options), channels=3, background=0.5)
    assert found[0, 0].tolist() == [128] * 3
    assert found[1, 1].tolist() == [200] * 3


def test_half_transparent_is_blended():
    image = Image.fromarray(np.full((1, 1, 4), (100, 0, 200, 128), np.uint8))
    assert np.abs(read_bytes(encode(image), background=1.0)[0, 0] - np.array([177, 127, 227])).max() <= 1


def test_channels_follow_the_policy():
    grey, colour = encode(Image.new("L", (2, 2), 77)), encode(Image.new("RGB", (2, 2), (255, 0, 0)))
    assert read_image(grey).shape[0] == 1 and read_image(colour).shape[0] == 3
    assert read_bytes(grey, channels=3)[0, 0].tolist() == [77] * 3
    assert read_bytes(colour, channels=1)[0, 0].tolist() == [76]  # 0.299 * 255
    for options in ({"channels": 2}, {"background": 1.5}):
        with pytest.raises(UsageError):
            read_image(grey, **options)


@pytest.mark.parametrize(
    ("mode", "form"), [("1", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("YCbCr", "TIFF"), ("RGBX", "TIFF")]
)
def test_other_modes_are_converted(mode, form):
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow does not read its own files of this kind")
    found = read_image(encode(Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode), form), channels=3)
    assert found.shape == (3, 4, 4) and found.min() > 0.97


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "PPM"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files_are_refused_by_name(form, share, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    content = encode(Image.fromarray(noise), form)
    path = tmp_path / "half.png"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"half\.png") as caught:
        read_image(path)
    assert caught.value.path == str(path) and "\n" not in str(caught.value)


@given(st.binary(max_size=200), st.integers(0, 400))
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_never_raise_anything_else(junk, position):
    content = bytearray(encode(Image.fromarray(colours()), "PNG"))
    content[position : position + len(junk)] = junk
    try:
        image = read_image(bytes(content), max_pixels=10_000)
    except DataError:
        return
    assert image.isfinite().all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>quota", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"hello", "supported are PNG"),
    ],
)
def test_what_is_no_image_is_said(content, words):
    with pytest.raises(DataError, match=words):
        read_image(content)


def test_formats_outside_the_list_are_refused():
    with pytest.raises(DataError, match="not an image"):
        read_image(encode(Image.new("RGB", (4, 4)), "ICO"))


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(DataError, match="cannot read"):
            read_image(path)


def png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_001, 15_000, 40_000])
def test_huge_images_are_refused_on_their_header(side):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=rf"{side * side:,} pixels.*100,000,000.*max_pixels"):
            read_image(png_header(side, side))


def test_our_pixel_limit_replaces_pillows(monkeypatch):
    content = encode(Image.new("L", (20, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(content).shape == (1, 20, 20)
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(DataError, match="400 pixels"):
        read_image(content, max_pixels=399)


def test_fit_takes_the_centre():
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255
    assert (np.asarray(fit(Image.fromarray(wide), (4, 4))) > 250).all()
    assert (np.asarray(fit(Image.fromarray(wide.transpose(1, 0, 2)), (8, 8))) == 255).all()
    same = Image.fromarray(colours(6, 6))
    assert fit(same, (6, 6)) is same


def test_fit_averages_when_it_shrinks():
    board = (np.indices((96, 96)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(np.asarray(fit(Image.fromarray(board), (8, 8))).astype(int) - 127).max() <= 3


# Laying out


@given(st.integers(1, 11), st.sampled_from([None, 1, 3, 20]), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_grid_holds_every_image_at_its_place(count, columns, pad):
    x = torch.rand(count, 3, 4, 5) * 2 - 1
    sheet = grid(x, columns, pad, fill=0.25)
    across = min(columns, count) if columns else int(np.ceil(np.sqrt(count)))
    for k in range(count):
        top, left = pad + k // across * (4 + pad), pad + k % across * (5 + pad)
        assert torch.equal(sheet[:, top : top + 4, left : left + 5], x[k])
        sheet[:, top : top + 4, left : left + 5] = 0.25
    assert (sheet == 0.25).all()


def test_grid_of_bytes_and_of_nothing():
    assert grid(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), pad=1)[0, 0].tolist() == [255] * 4
    with pytest.raises(UsageError, match="at least 1"):
        grid(torch.zeros(0, 3, 2, 2))
    with pytest.raises(UsageError, match="at least 1"):
        grid(torch.zeros(2, 3, 2, 2), columns=0)


def test_upscaling_repeats_pixels():
    x = torch.rand(2, 3, 4, 5)
    assert torch.equal(upscale_nearest(x, (8, 15)), x.repeat_interleave(2, -2).repeat_interleave(3, -1))
    assert upscale_nearest(x, 7).shape == (2, 3, 7, 7)


def test_film_strip_brings_all_to_one_height():
    frames = [torch.full((1, 2, 3), -1.0), torch.full((3, 8, 8), 0.5), torch.zeros(3, 4, 2)]
    strip = film_strip(frames, pad=1, fill=1.0)
    assert strip.shape == (3, 8, 12 + 1 + 8 + 1 + 4)
    assert (strip[:, :, 12] == 1).all() and (strip[:, :, :12] == -1).all() and (strip[:, :, 22:] == 0).all()
    assert film_strip(frames, height=16).shape[1] == 16
    with pytest.raises(UsageError):
        film_strip([])


# Writing


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_saved_images_read_back_the_same(suffix, channels, tmp_path):
    x = from_uint8(torch.from_numpy(np.random.default_rng(1).integers(0, 256, (channels, 9, 7), np.uint8)))
    path = save_image(x, tmp_path / "deep" / f"x{suffix}")
    assert torch.equal(read_image(path, channels=channels), x)


def test_jpeg_is_close(tmp_path):
    x = torch.linspace(-1, 1, 32).expand(3, 32, 32)
    assert (read_image(save_image(x, tmp_path / "x.jpg")) - x).abs().max() < 0.06


def test_an_existing_file_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"precious")
    for write in (
        lambda: save_image(torch.zeros(3, 2, 2), path),
        lambda: write_atomic(path, b"new"),
        lambda: check_output(path),
    ):
        with pytest.raises(OutputError, match="--overwrite") as caught:
            write()
        assert caught.value.code == 2
    assert path.read_bytes() == b"precious"
    save_image(torch.zeros(3, 2, 2), path, overwrite=True)
    assert read_image(path).shape == (3, 2, 2)
    with pytest.raises(OutputError, match="folder"):
        write_atomic(tmp_path, b"", overwrite=True)


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    path = tmp_path / "x"

    def slow(stream):
        path.write_bytes(b"other")
        stream.write(b"mine")

    with pytest.raises(OutputError, match="meantime"):
        write_atomic(path, slow)
    assert path.read_bytes() == b"other" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [RuntimeError("no"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(failure, tmp_path):
    path = write_atomic(tmp_path / "x", b"old")

    def fail(stream):
        stream.write(b"half")
        raise failure

    with pytest.raises(ResourceError if isinstance(failure, OSError) else type(failure), match=None):
        write_atomic(path, fail, overwrite=True)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_resource_error(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(ResourceError, match="cannot write"):
            write_atomic(tmp_path / "x", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="cannot write"):
        save_image(torch.zeros(3, 2, 2), tmp_path / "file" / "x.png")


def test_unknown_endings_name_the_known(tmp_path):
    with pytest.raises(UsageError, match=r"\.png, \.jpg, \.jpeg, \.webp"):
        save_image(torch.zeros(3, 2, 2), tmp_path / "x.xyz")
    with pytest.raises(UsageError, match="no ending"):
        save_image(torch.zeros(3, 2, 2), tmp_path / "x")
    with pytest.raises(UsageError, match=r"\.gif"):
        save_gif(torch.zeros(2, 3, 2, 2), tmp_path / "x.png")
    with pytest.raises(UsageError, match="height, width"):
        save_image(torch.zeros(2, 2, 2), tmp_path / "x.png")


def test_animation(tmp_path):
    frames = [torch.full((3, 4, 4), value) for value in (-1.0, 0.0, 1.0)]
    with Image.open(save_gif(frames, tmp_path / "x.gif", [50, 50, 900])) as film:
        assert (film.n_frames, film.info["loop"]) == (3, 0)
        levels, times = [], []
        for k in range(3):
            film.seek(k)
            levels.append(film.convert("L").getpixel((0, 0)))
            times.append(film.info["duration"])
    assert levels == [0, 128, 255] and times == [50, 50, 900]
    with Image.open(save_gif(torch.stack(frames), tmp_path / "once.gif", loop=False)) as film:
        assert "loop" not in film.info
    for bad in ([], [torch.zeros(3, 2, 2), torch.zeros(3, 4, 4)]):
        with pytest.raises(UsageError, match="one shape"):
            save_gif(bad, tmp_path / "bad.gif")


# What people's files hold


def chunked(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(depth, rows, *more):
    height, width = len(rows), 8 * len(rows[0]) // depth
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = ((b"IHDR", header), *more, (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunked(*part) for part in parts)


def tiff(bits, data, side, photometric=1, *more):
    tags = [(256, 4, side), (257, 4, side), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 0), (277, 3, 1), (278, 4, side), (279, 4, len(data)), *more]
    tags[5] = (273, 4, 8 + 2 + 12 * len(tags) + 4)
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + data


@pytest.mark.parametrize(
    ("depth", "byte", "clear"), [(4, 0x55, 5), (2, 0x55, 1), (1, 0xFF, 1), (8, 0x55, 0x55)]
)
def test_a_transparent_grey_of_few_bits(depth, byte, clear):
    content = png(depth, [bytes([byte] * 4)] * 8, (b"tRNS", struct.pack(">H", clear)))
    assert read_image(content, background=1.0).min() == 1
    assert read_image(content, background=0.0).max() == -1


@pytest.mark.parametrize(
    ("bits", "data", "photometric", "more", "wanted"),
    [
        (12, b"\xff\xff\xff" * 128, 1, (), 1),
        (12, b"\x00\x00\x00" * 128, 1, (), -1),
        (16, struct.pack("<h", 32767) * 256, 1, ((339, 3, 2),), 1),
        (16, struct.pack("<H", 65535) * 256, 0, (), -1),
        (16, struct.pack("<H", 0) * 256, 0, (), 1),
        (8, b"\x00" * 256, 0, (), 1),
    ],
)
def test_white_of_a_tiff(bits, data, photometric, more, wanted):
    image = read_image(tiff(bits, data, 16, photometric, *more))
    assert image.min() == image.max() == wanted


def test_an_alpha_of_zero_throughout_is_none_in_a_bmp():
    header = struct.pack("<IiiHHIIiiII", 108, 2, 2, 1, 32, 3, 16, 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"\0" * 52
    data = b"\x10\x20\x30\x00" * 4
    content = b"BM" + struct.pack("<IHHI", 14 + 108 + 16, 0, 0, 14 + 108) + header + masks + data
    assert to_uint8(read_image(content)[None])[0, :, 0, 0].tolist() == [0x30, 0x20, 0x10]


def test_odd_metadata_are_no_reason_to_refuse():
    picture = Image.linear_gradient("L").resize((60, 40)).convert("RGB")
    entries = [(0x112, 3, 1, struct.pack("<H", 6)), (0x11A, 2, 3, b"72\0")]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    exif += b"".join(struct.pack("<HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    exif += struct.pack("<I", 0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    plain = buffer.getvalue()
    odd = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]
    assert read_image(odd).shape == (3, 60, 40)  # and turned
    nonsense = png(8, [b"\x10" * 4] * 4, (b"eXIf", b"nonsense"))
    assert read_image(nonsense).shape == (1, 4, 4)


def test_another_profile_becomes_srgb_and_a_damaged_one_is_ignored():
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # not for RGB: ignored
    swapped = swapped_profile()
    image = Image.new("RGB", (4, 4), (200, 30, 60))
    found = {}
    for name, profile in (("none", None), ("damaged", b"nonsense"), ("unfit", wide), ("swapped", swapped)):
        buffer = io.BytesIO()
        image.save(buffer, "PNG", icc_profile=profile)
        found[name] = to_uint8(read_image(buffer.getvalue())[None])[0, :, 0, 0].tolist()
    assert found["none"] == found["damaged"] == found["unfit"] == [200, 30, 60]
    assert np.abs(np.array(found["swapped"]) - [30, 200, 60]).max() <= 3


def swapped_profile():
    """sRGB with the primaries of red and green exchanged, under another name."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", content[128:132])[0]
    places = {bytes(content[132 + 12 * i : 136 + 12 * i]): 132 + 12 * i for i in range(count)}
    red, green = (content[places[tag] + 4 : places[tag] + 12] for tag in (b"rXYZ", b"gXYZ"))
    content[places[b"rXYZ"] + 4 : places[b"rXYZ"] + 12] = green
    content[places[b"gXYZ"] + 4 : places[b"gXYZ"] + 12] = red
    return bytes(content).replace("sRGB".encode("utf-16-be"), "Mine".encode("utf-16-be"))


def test_pictures_of_other_formats_are_named_for_what_they_are():
    with pytest.raises(DataError, match="HEIC, whatever its name"):
        read_image(b"\0\0\0\x18ftypheic" + b"\0" * 50)
    with pytest.raises(DataError, match="JPEG XL"):
        read_image(b"\xff\x0a" + b"\0" * 50)


@pytest.mark.parametrize("compression", ["jpeg", "tiff_adobe_deflate", "tiff_lzw"])
def test_damage_in_a_tiff_is_an_error_and_no_word_of_a_library(compression, tmp_path, capfd):
    """libtiff writes to stderr itself, past Python."""
    made = io.BytesIO()
    Image.linear_gradient("L").save(made, "TIFF", compression=compression)
    content, failed = made.getvalue(), 0
    for place in range(8, len(content), max(1, len(content) // 60)):
        damaged = content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_image(damaged)
            except DataError:
                failed += 1
    assert failed and capfd.readouterr().err == ""
