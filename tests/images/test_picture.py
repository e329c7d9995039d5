"""Pictures as a whole: what a file was like it is again when its pixels are written."""

import io
import struct

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from ssdiff.errors import DataError, UsageError
from ssdiff.images import read_image
from ssdiff.images.picture import Form, read_picture, write_picture

WIDTH, HEIGHT = 23, 17
_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))


def wide_profile():
    """An ICC profile of P3's primaries and gamma 2.2."""

    def fixed(values):
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    def padded(data):
        return data + bytes(-len(data) % 4)

    text = b"wide\0"
    tags = [
        (b"desc", padded(b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78))),
        (b"cprt", padded(b"text\0\0\0\0none\0")),
        (b"wtpt", b"XYZ \0\0\0\0" + fixed((0.9642, 1.0, 0.8249))),
        *zip((b"rXYZ", b"gXYZ", b"bXYZ"), (b"XYZ \0\0\0\0" + fixed(p) for p in _P3), strict=True),
        *((name, struct.pack(">4sIIHH", b"curv", 0, 1, 563, 0)) for name in (b"rTRC", b"gTRC", b"bTRC")),
    ]
    at, table, data = 128 + 4 + 12 * len(tags), b"", b""
    for name, value in tags:
        table += name + struct.pack(">II", at + len(data), len(value))
        data += value
    head = struct.pack(">I4sI4s4s4s6H4s", at + len(data), b"", 0x2400000, b"mntr", b"RGB ", b"XYZ ",
                       2026, 1, 1, 0, 0, 0, b"acsp")  # fmt: skip
    head = head.ljust(68, b"\0") + fixed((0.9642, 1.0, 0.8249))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def colours(top=255, kind=np.uint8):
    y, x = np.mgrid[:HEIGHT, :WIDTH] / [[[HEIGHT - 1]], [[WIDTH - 1]]]
    return np.rint(np.stack([x, y, (x + y) / 2], -1) * 0.8 * top + 0.1 * top).astype(kind)


def tiff16(values, path):
    """An uncompressed TIFF of 16 bits, which Pillow does not write of colours."""
    height, width, channels = values.shape
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, 0), (259, 3, 1, 1)]
    entries += [(262, 3, 1, 2), (273, 4, 1, 0), (277, 3, 1, channels), (278, 4, 1, height)]
    entries += [(279, 4, 1, values.nbytes), (284, 3, 1, 1)]
    after = 8 + 2 + 12 * len(entries) + 4
    places = {258: after, 273: after + 2 * channels}
    table = b"".join(struct.pack("<HHII", t, k, n, places.get(t, v)) for t, k, n, v in entries)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table + bytes(4)
    path.write_bytes(head + struct.pack(f"<{channels}H", *[16] * channels) + values.astype("<u2").tobytes())


def through(path, out, channels=3):
    x, form = read_picture(path, channels=channels)
    assert write_picture(x, form, out) == []
    return x, form, Image.open(out)


def test_a_plain_file_is_read_as_ever(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    x, form, back = through(tmp_path / "a.png", tmp_path / "b.png")
    assert torch.equal(x, read_image(tmp_path / "a.png")) and form == Form()
    assert np.array_equal(np.asarray(back), colours()) and back.mode == "RGB"


def test_colours_go_back_to_their_profile(tmp_path):
    profile = wide_profile()
    Image.fromarray(colours()).save(tmp_path / "a.png", icc_profile=profile, dpi=(300, 300))
    x, form, back = through(tmp_path / "a.png", tmp_path / "b.png")
    assert torch.equal(x, read_image(tmp_path / "a.png")), "the same way in as everywhere"
    assert form.converted and not np.array_equal(((x + 1) * 127.5).round().permute(1, 2, 0), colours())
    assert back.info["icc_profile"] == profile and back.info["dpi"][0] == pytest.approx(300, abs=0.1)
    seen = ImageCms.ImageCmsProfile(io.BytesIO(back.info["icc_profile"]))
    assert "wide" in ImageCms.getProfileDescription(seen)
    inside = ((x > -0.98) & (x < 0.98)).all(0)  # what sRGB can hold
    difference = np.abs(np.asarray(back).astype(int) - colours().astype(int))
    assert inside.float().mean() > 0.5 and difference[inside.numpy()].max() <= 2


def test_a_profile_that_cannot_be_read_is_said(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png", icc_profile=b"junk" * 40)
    _, form, back = through(tmp_path / "a.png", tmp_path / "b.png")
    assert "profile cannot be read" in form.notes[0] and "icc_profile" not in back.info


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_photograph_is_upright_afterwards(tmp_path, turn):
    exif = Image.Exif()
    exif[274], exif[271] = turn, "maker"
    Image.fromarray(colours()).save(tmp_path / "a.png", exif=exif)
    x, _, back = through(tmp_path / "a.png", tmp_path / "b.png")
    assert torch.equal(x, read_image(tmp_path / "a.png"))
    assert 274 not in back.getexif() and back.getexif()[271] == "maker"
    assert np.array_equal(np.asarray(back), ((x + 1) * 127.5).round().byte().permute(1, 2, 0))
    # sixteen bits are turned by another hand
    deep = colours(65535, np.uint16)
    tiff16(deep, tmp_path / "a.tif")
    plain, _ = read_picture(tmp_path / "a.tif", channels=3)
    form = Form(depth=16, exif=exif)
    write_picture(plain, form, tmp_path / "c.png")
    again, _ = read_picture(tmp_path / "c.png", channels=3)
    assert torch.allclose(again, turned(plain, turn), atol=1e-6)


def turned(x, turn):
    """What EXIF says, by its numbers."""
    x = x.transpose(-1, -2) if turn >= 5 else x
    flips = {2: (-1,), 3: (-1, -2), 4: (-2,), 6: (-1,), 7: (-1, -2), 8: (-2,)}
    return x.flip(flips[turn]) if turn in flips else x


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_sixteen_bits_stay(tmp_path, kind):
    deep = colours(65535, np.uint16)
    tiff16(deep, tmp_path / "a.tif")
    x, form = read_picture(tmp_path / "a.tif", channels=3)
    if kind == "png":
        write_picture(x, form, tmp_path / "a.png")
        x, form = read_picture(tmp_path / "a.png", channels=3)
    assert form.depth == 16 and not form.grey
    values = (x.permute(1, 2, 0).double().numpy() + 1) * 32767.5
    assert np.abs(values - deep).max() < 0.02
    said = write_picture(x, form, tmp_path / "b.jpg")
    assert "8 of the 16 bits" in said[0]


@pytest.mark.parametrize("opacity", [False, True])
@pytest.mark.parametrize("grey", [False, True])
def test_a_deep_tiff_is_as_it_was(tmp_path, grey, opacity):
    deep = colours(65535, np.uint16)[..., : 1 if grey else 3]
    alpha = torch.linspace(0, 1, WIDTH).expand(1, HEIGHT, WIDTH) if opacity else None
    exif = Image.Exif()
    exif[271], exif[274], exif[0xA434] = "Müller", 1, "lens"
    x = torch.from_numpy(deep.astype(np.float32)).permute(2, 0, 1) / 32767.5 - 1
    profile = None if grey else wide_profile()
    form = Form(grey, 16, profile, False, alpha, exif, {"dpi": (300.0, 300.0)})
    grey = grey and not opacity  # which few programs read
    for name in ("a.tif", "b.tiff"):  # written, and written again from what was read
        assert write_picture(x, form, tmp_path / name) == []
        x, form = read_picture(tmp_path / name, channels=1 if grey else 3)
    assert form.depth == 16 and form.grey == grey and form.info["dpi"] == (300.0, 300.0)
    assert form.exif is not None and form.exif[271] == "Müller"
    assert form.profile == profile
    assert np.abs((x.permute(1, 2, 0).double().numpy() + 1) * 32767.5 - deep).max() < 0.02
    assert (form.alpha is not None) == opacity
    if alpha is not None:
        assert torch.allclose(form.alpha, alpha, atol=1e-5)


def test_a_tiff_of_bytes_is_as_it_was(tmp_path):
    rgba = np.dstack([colours(), colours()[..., 0]])
    exif = Image.Exif()
    exif[271] = "maker"
    Image.fromarray(rgba).save(tmp_path / "a.tif", dpi=(300, 300), icc_profile=wide_profile(), exif=exif)
    _, form, back = through(tmp_path / "a.tif", tmp_path / "b.tif")
    assert form.depth == 8 and back.format == "TIFF" and back.mode == "RGBA"
    assert np.array_equal(np.asarray(back)[..., 3], rgba[..., 3])
    assert back.info["icc_profile"] == wide_profile() and back.info["dpi"][0] == 300
    assert back.getexif()[271] == "maker"


def test_deep_grey_stays_deep_and_grey(tmp_path):
    deep = colours(65535, np.uint16)[..., 0]
    Image.fromarray(deep).save(tmp_path / "a.png")
    x, form, back = through(tmp_path / "a.png", tmp_path / "b.png")
    assert x.shape[0] == 3 and form.grey and form.depth == 16
    assert np.abs(np.asarray(back).astype(int) - deep).max() <= 1


def test_grey_stays_grey_and_transparency_stays(tmp_path):
    values = colours()
    alpha = np.zeros((HEIGHT, WIDTH), np.uint8)
    alpha[3:9, 4:15] = np.arange(11) * 25
    grey = Image.fromarray(values[..., 0])
    grey.putalpha(Image.fromarray(alpha))
    grey.save(tmp_path / "a.png")
    x, _, back = through(tmp_path / "a.png", tmp_path / "b.png")
    assert back.mode == "LA" and np.array_equal(np.asarray(back)[..., 1], alpha)
    assert np.abs(np.asarray(back)[..., 0].astype(int) - values[..., 0]).max() <= 1
    colour = Image.fromarray(values)
    colour.putalpha(Image.fromarray(alpha))
    colour.save(tmp_path / "c.png")
    x, form, back = through(tmp_path / "c.png", tmp_path / "d.png")
    assert back.mode == "RGBA" and np.array_equal(np.asarray(back), np.asarray(colour))
    larger = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    write_picture(larger, form, tmp_path / "large.png")
    assert Image.open(tmp_path / "large.png").size == (2 * WIDTH, 2 * HEIGHT)
    assert "no transparency" in write_picture(x, form, tmp_path / "e.jpg")[0]
    assert np.asarray(Image.open(tmp_path / "e.jpg"))[0, 0].min() > 250, "what is clear is white"


def test_cmyk_becomes_rgb_with_a_word(tmp_path):
    Image.fromarray(colours()).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    x, form, back = through(tmp_path / "a.jpg", tmp_path / "b.png")
    assert "CMYK" in form.notes[0] and back.mode == "RGB"
    assert torch.equal(x, read_image(tmp_path / "a.jpg"))


def test_colours_as_grey_are_their_luma(tmp_path):
    Image.fromarray(colours()).save(tmp_path / "a.png")
    x, _ = read_picture(tmp_path / "a.png", channels=1)
    assert torch.equal(x, read_image(tmp_path / "a.png", channels=1))
    tiff16(colours(65535, np.uint16), tmp_path / "a.tif")
    deep, _ = read_picture(tmp_path / "a.tif", channels=1)
    assert deep.shape == x.shape and float((deep - x).abs().max()) < 0.02


def test_what_is_no_picture(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_picture(tmp_path / "gone.png", channels=3)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="is not an image"):
        read_picture(tmp_path / "a.png", channels=3)
    Image.fromarray(colours()).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "b.png").read_bytes()[:-60])
    with pytest.raises(DataError, match="cannot decode"):
        read_picture(tmp_path / "c.png", channels=3)
    with pytest.raises(DataError, match="the limit is 9"):
        read_picture(tmp_path / "b.png", channels=3, max_pixels=9)
    with pytest.raises(UsageError):
        write_picture(torch.zeros(3, 4, 4), Form(), tmp_path / "a.gif")
