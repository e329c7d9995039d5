"""What JPEG files say of how they were rounded."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from ssdiff.errors import UsageError
from ssdiff.images.jpeg import JpegTables, tables_of, tables_of_quality, through_jpeg


def encoded(mode="RGB", **options):
    stream = BytesIO()
    Image.new(mode, (24, 16)).save(stream, format=options.pop("format", "JPEG"), **options)
    return Image.open(stream)


@pytest.mark.parametrize(("subsampling", "factor"), [(0, (1, 1)), (1, (1, 2)), (2, (2, 2))])
def test_tables_are_those_of_the_file(subsampling, factor):
    found = tables_of(encoded(quality=50, subsampling=subsampling))
    assert found is not None and found.factor == factor
    assert found.luma[:8] == (16, 11, 10, 16, 24, 40, 51, 61)  # ITU-T T.81, table K.1, row by row
    assert found.chroma is not None and found.chroma[:4] == (17, 18, 24, 47)


def test_files_that_say_nothing():
    assert tables_of(encoded("L", quality=50)) == JpegTables(tables_of_quality(50).luma)
    assert tables_of(encoded("CMYK")) is None and tables_of(encoded(format="PNG")) is None
    assert tables_of(encoded(keep_rgb=True)) is None


def test_quality():
    assert tables_of_quality(50) == tables_of(encoded(quality=50))
    assert tables_of_quality(50, 1).chroma is None
    for wrong in (0, 101, 2.5):
        with pytest.raises(UsageError, match="quality"):
            tables_of_quality(wrong)


def test_through_a_file():
    x = torch.rand(2, 3, 17, 30, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = through_jpeg(x, 30)
    stream = BytesIO()
    bytes_ = ((x[1] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(bytes_).save(stream, format="JPEG", quality=30)
    assert np.array_equal(
        ((found[1] + 1) * 127.5).round().byte().permute(1, 2, 0), np.asarray(Image.open(stream))
    )
