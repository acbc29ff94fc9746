"""Small slides that the suite generates: each of a kind that OpenSlide or TIAToolbox tells apart."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_mitosis.io.slides.demo import write_slide

UM_PER_CM = 10_000


def textured(width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """(height, width, 3) uint8: no two windows alike, so that a shift of one pixel shows."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(60, 230, (height // 8 + 2, width // 8 + 2, 3))
    fine = generator.integers(-20, 20, (height, width, 3))
    grown = np.kron(coarse, np.ones((8, 8, 1), dtype=int))[:height, :width]
    return (grown + fine).clip(0, 255).astype(np.uint8)


def tiff_slide(path: Path, image: NDArray[np.uint8], mpp: float = 0.25, levels: int = 1) -> Path:
    """A generic tiled TIFF with a pixel size."""
    write_slide(path, image, mpp, levels)
    return path


def aperio_slide(path: Path, image: NDArray[np.uint8], mpp_text: str | None = "0.25", **tags: Any) -> Path:
    """An SVS: a tiled TIFF whose description begins like a ScanScope's; `tags` as tifffile takes them."""
    height, width = image.shape[:2]
    stated = f"|MPP = {mpp_text}" if mpp_text else ""
    description = (
        f"Aperio Image Library v12.0\n{width}x{height} [0,0 {width}x{height}] (240x240)|AppMag = 40{stated}"
    )
    tifffile.imwrite(
        path,
        image,
        tile=(240, 240),
        compression="deflate",
        photometric="rgb",
        description=description,
        metadata=None,
        **tags,
    )
    return path


def ome_slide(
    path: Path,
    image: NDArray[np.uint8],
    mpp: float | str | None = 0.25,
    power: int | None = None,
    unit: str = "µm",
    tile: tuple[int, int] | None = None,
) -> Path:
    """An OME-TIFF. In strips OpenSlide refuses it, tiled it opens it as a generic TIFF."""
    height, width = image.shape[:2]
    stated = (
        ""
        if mpp is None
        else "".join(f' PhysicalSize{axis}="{mpp}" PhysicalSize{axis}Unit="{unit}"' for axis in "XY")
    )
    objective = f'<Objective ID="Objective:0" NominalMagnification="{power}"/>' if power else ""
    bits = f"uint{8 * image.itemsize}"
    description = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Instrument ID="Instrument:0">{objective}</Instrument><Image ID="Image:0">'
        '<InstrumentRef ID="Instrument:0"/><ObjectiveSettings ID="Objective:0"/>'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{bits}" SizeX="{width}" SizeY="{height}" '
        f'SizeC="3" SizeZ="1" SizeT="1" Interleaved="true"{stated}>'
        '<Channel ID="Channel:0:0" SamplesPerPixel="3"/>'
        '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    )
    tifffile.imwrite(
        path, image, tile=tile, photometric="rgb", description=description.encode(), metadata=None
    )
    return path


TILED: dict[str, Any] = {
    "tile": (256, 256),
    "compression": "deflate",
    "photometric": "rgb",
    "metadata": None,
}


def tiff_of_resolution(
    path: Path,
    image: NDArray[np.uint8],
    mpp: tuple[float, float] | None,
    levels: tuple[NDArray[np.uint8], ...] = (),
) -> Path:
    """A generic tiled TIFF, with a pixel size per axis or with none, and any levels below `image`."""
    with tifffile.TiffWriter(path) as tiff:
        for number, pixels in enumerate((image, *levels)):
            stated = (
                {} if mpp is None else {"resolution": tuple(UM_PER_CM / axis / 2**number for axis in mpp)}
            )
            unit = "CENTIMETER" if mpp else "NONE"
            tiff.write(pixels, subfiletype=1 if number else 0, resolutionunit=unit, **TILED, **stated)
    return path


def ndpi_slide(
    path: Path, image: NDArray[np.uint8], offset_nm: tuple[int, int] | None, mpp: float = 0.25
) -> Path:
    """An NDPI of Hamamatsu with one level, a single JPEG.

    Args:
        path: Where it goes.
        image: (height, width, 3) RGB.
        offset_nm: (x, y) from the middle of the glass to the middle of the image, tags 65422 and 65423; None
            for a file without them.
        mpp: um/px.
    """
    tags: list[Any] = [(65420, "I", 1, 1, True), (65421, "f", 1, 40.0, True), (65424, "i", 1, 0, True)]
    if offset_nm is not None:
        tags += [(65422, "i", 1, offset_nm[0], True), (65423, "i", 1, offset_nm[1], True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as file:
        file.write(
            image,
            photometric="rgb",
            compression="jpeg",
            rowsperstrip=image.shape[0],
            resolution=(10_000 / mpp, 10_000 / mpp),
            resolutionunit="CENTIMETER",
            extratags=tags,
            metadata=None,
        )
    _widen_offsets(path)
    return path


def _widen_offsets(path: Path) -> None:
    """Give a TIFF of one page the offsets of 64 bits that NDPI has, with its directory at the end."""
    data = bytearray(path.read_bytes())
    start = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[start : start + 2], "little")
    directory = bytes(data[start : start + 2 + 12 * entries])
    data[4:12] = len(data).to_bytes(8, "little")
    path.write_bytes(bytes(data) + directory + bytes(8 + 4 * entries))


def damage(path: Path, at: float) -> Path:
    """Overwrite 512 bytes of a file at a fraction of its length: a page or tile that no longer decodes."""
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size * at))
        file.write(b"\x5a" * 512)
    return path


def leica_slide(
    path: Path,
    image: NDArray[np.uint8],
    offset_px: tuple[int, int],
    size_px: tuple[int, int],
    mpp: float = 0.25,
) -> Path:
    """A minimal Leica SCN: the slide is `size_px`, and only the part at `offset_px` was scanned.

    OpenSlide reports bounds for it (its leica driver reads view offsets and sizes in nm).
    """
    nm = round(mpp * 1000)
    height, width = image.shape[:2]
    macro = np.full((64, 64, 3), 240, np.uint8)

    def picture(view: tuple[int, int, int, int], pixels: tuple[int, int], ifd: int, objective: str) -> str:
        return (
            f'<image name="{ifd}"><creationDate>2020-01-01T00:00:00Z</creationDate>'
            '<device model="Leica SCN400" version="1"/>'
            f'<pixels sizeX="{pixels[0]}" sizeY="{pixels[1]}">'
            f'<dimension sizeX="{pixels[0]}" sizeY="{pixels[1]}" r="0" ifd="{ifd}"/></pixels>'
            f'<view sizeX="{view[2]}" sizeY="{view[3]}" offsetX="{view[0]}" offsetY="{view[1]}" '
            'spacingZ="0"/>'
            f"<scanSettings><objectiveSettings><objective>{objective}</objective></objectiveSettings>"
            "<illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings>"
            "</scanSettings></image>"
        )

    whole = (0, 0, size_px[0] * nm, size_px[1] * nm)
    scanned = (offset_px[0] * nm, offset_px[1] * nm, width * nm, height * nm)
    description = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="c" sizeX="{whole[2]}" sizeY="{whole[3]}"><barcode></barcode>'
        + picture(whole, (64, 64), 0, "0.6")
        + picture(scanned, (width, height), 1, "40")
        + "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(macro, tile=(64, 64), photometric="rgb", description=description, metadata=None)
        tiff.write(image, resolution=(UM_PER_CM / mpp,) * 2, resolutionunit="CENTIMETER", **TILED)
    return path


def planes_slide(
    path: Path,
    planes: NDArray[Any],
    channels: dict[str, Any] | None = None,
    *,
    tiled: bool = True,
    subifds: int = 0,
) -> Path:
    """An OME-TIFF of 0.25 um/px whose channels are images of their own, `planes` being (C, height, width).

    Args:
        path: The file.
        planes: The channels.
        channels: Attributes of OME's Channel, a list of values each.
        tiled: In tiles, or in strips.
        subifds: Smaller levels, each every second pixel of the one before.
    """
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    metadata |= {} if channels is None else {"Channel": channels}
    tile = (128, 128) if tiled else None
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(planes, tile=tile, photometric="minisblack", metadata=metadata, subifds=subifds)
        for level in range(1, subifds + 1):
            smaller = planes[:, :: 2**level, :: 2**level]
            tiff.write(smaller, tile=tile, photometric="minisblack", subfiletype=1)
    return path


def missing_tiles(
    path: Path, image: NDArray[np.uint8], layout: str, *, ome: bool = False
) -> tuple[Path, NDArray[np.bool_]]:
    """A TIFF of 0.25 um/px that does not store its second segment, of 128 x 128 px or of 128 rows.

    Returns:
        The file, and (height, width) bool, which pixels are stored.
    """
    height, width = image.shape[:2]
    across = 128 if layout == "tiled" else width
    corners = [(y, x) for y in range(0, height, 128) for x in range(0, width, across)]
    present = np.ones((height, width), np.bool_)
    present[corners[1][0] : corners[1][0] + 128, corners[1][1] : corners[1][1] + across] = False

    def segments() -> Iterator[bytes]:
        for number, (y, x) in enumerate(corners):
            part = image[y : y + 128, x : x + across]
            if layout == "tiled":
                part = np.pad(part, ((0, 128 - part.shape[0]), (0, 128 - part.shape[1]), (0, 0)))
            yield b"" if number == 1 else zlib.compress(part.tobytes())

    how = {"tile": (128, 128)} if layout == "tiled" else {"rowsperstrip": 128}
    tifffile.imwrite(
        path,
        segments(),
        shape=image.shape,
        dtype=np.uint8,
        compression="deflate",
        photometric="rgb",
        ome=ome,
        metadata={"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25} if ome else None,
        resolution=(UM_PER_CM / 0.25,) * 2,
        resolutionunit="CENTIMETER",
        **how,
    )
    return path, present


def transparent_slide(path: Path, image: NDArray[np.uint8]) -> Path:
    """A tiled TIFF with an alpha channel, 0.25 um/px.

    Args:
        path: The file.
        image: (height, width, 4) uint8 RGBA.
    """
    tifffile.imwrite(
        path,
        image,
        tile=(128, 128),
        photometric="rgb",
        extrasamples=["unassalpha"],
        resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return path
