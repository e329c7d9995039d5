"""The training set of the bundled prior of photographs: each picture as it is, turned, and in grey.

    python benchmarks/photo_set.py photos.zip --out photos-train.zip
    ssdiff train --preset photos64 --data photos-train.zip

Pictures are those of the archive whose names begin with --prefix, but for those of --without, at most 2048 px
a side. Every one is written three times: as it is, turned by a quarter, and as grey in three equal channels,
every other one of these turned.
"""

from __future__ import annotations

import argparse
import zipfile
from io import BytesIO
from pathlib import Path

from PIL import Image

SIDE = 2048


def write(source: Path, out: Path, prefixes: tuple[str, ...], without: tuple[str, ...]) -> int:
    """Write the set; returns how many pictures it was made of."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(out, "w") as target:
        names = [name for name in sorted(archive.namelist()) if name.startswith(prefixes)]
        names = [name for name in names if not any(part in name for part in without)]
        for number, name in enumerate(names):
            image = Image.open(BytesIO(archive.read(name))).convert("RGB")
            image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            turned = image.transpose(Image.Transpose.ROTATE_90)
            grey = (turned if number % 2 else image).convert("L").convert("RGB")
            for ending, one in (("", image), ("-turned", turned), ("-grey", grey)):
                stream = BytesIO()
                one.save(stream, format="PNG")
                target.writestr(f"{Path(name).stem}{ending}.png", stream.getvalue())
    return len(names)


def main() -> None:
    """Write the set and say how large it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="zip file of photographs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prefix", nargs="+", default=["mate-backgrounds_", "plasma-workspace-wallpapers_"])
    parser.add_argument("--without", nargs="*", default=["Volna", "FlyingKonqui"])
    options = parser.parse_args()
    count = write(options.data, options.out, tuple(options.prefix), tuple(options.without))
    print(f"{options.out}: {count} photographs, three times each")


if __name__ == "__main__":
    main()
