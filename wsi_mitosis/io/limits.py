"""How large an input may be, and readers that stop at these limits.

Detections, slides and bundles come from other systems. A file of a few kilobytes can state or unpack to more
than any machine holds, and the run of a whole night must not end with it. The limits are far above what real
files have; a file beyond one of them is refused by name.
"""

from __future__ import annotations

import json
import re
import stat
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path
    from xml.etree.ElementTree import Element  # only a type # nosec B405

    import pyarrow as pa

MOST_BYTES = 2 << 30
"""Bytes of a file that is read as a whole, also after decompression. Ten million rows of a site-wide table
have about 1 GB. A document of JSON takes some ten times its size when it is parsed."""
MOST_SETTINGS_BYTES = 16 << 20
"""Bytes of a file with settings: a pipeline, a recipe, a manifest, a slide list. The largest real ones are
slide lists; 16 MiB are some hundred thousand paths."""
MOST_ROWS = 20_000_000
"""Rows of a table, also of a database. A slide has at most some thousand mitotic figures and about a million
nuclei."""
MOST_CELLS = 400_000_000
"""Cells of a Parquet table. A column of empty or equal values needs hardly any bytes in the file, but 8 bytes
or more for each row in memory."""
MOST_VALUE_BYTES = 64 << 20
"""Bytes of a value in a database, such as the outline of an object."""
MOST_DATABASE_STEPS = 5_000_000_000
"""Instructions of SQLite's virtual machine for one query. Sorting and joining twenty million rows needs
fewer; a schema that was made to keep a reader busy for ever needs more."""
MOST_SIDE_PX = 5_000_000
"""Width and height of a slide: more than 1 m of glass at 0.25 um/px."""
MOST_SEGMENT_BYTES = 2 << 30
"""Bytes of a decoded tile or strip of a slide. A library decodes a whole one for each patch on it. Scanners
write tiles of at most some megabytes; a slide that is a single strip of 23,000 x 23,000 px has 2 GiB."""
MOST_STACK_BYTES = 8 << 30
"""Bytes of all decoded pages of a stack: 160,000 crops of 128 x 128 px."""
MOST_CROP_SIDE_PX = 4096
"""Side of a crop with one figure. Published ones have 50 to 128 px."""
MOST_XML_BYTES = 32 << 20
"""Bytes of the OME-XML in a slide. Files with thousands of planes have about ten megabytes."""
MOST_XML_DEPTH = 200
"""Nested elements of XML. The schema of OME-XML (2016-06) needs about ten, and annotations have fewer."""
MOST_ANNOTATION_XML_BYTES = 256 << 20
"""Bytes of XML with annotations, which takes some ten times its size when it is parsed. An outline of 30
corners has about 1.5 kB, so that these are more than 150,000 outlines, or some million points."""

_READ_BYTES = 1 << 20
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NO_GZIP_HEADER = 16 + zlib.MAX_WBITS
"""zlib then expects the header and trailer of gzip (zlib.h, inflateInit2)."""


class LimitError(ValueError):
    """An input that is beyond a limit. Readers raise it as an error that names the file.

    Attributes:
        remedy: What the user can do.
    """

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.remedy = remedy


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Read a regular file.

    Raises:
        LimitError: if it is larger, or not a regular file: a device has no end, and a named pipe may block.
        OSError: if it cannot be read.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode) and not stat.S_ISDIR(state.st_mode):
        raise LimitError("not a regular file but a device, socket or pipe", "Copy it to a file first")
    if state.st_size > most:
        raise LimitError(f"the file has more than {_size(most)}", "Split it, for example by slide")
    return path.read_bytes()


def read_text(path: Path, most: int = MOST_SETTINGS_BYTES) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        LimitError: as `read_bytes`.
        ValueError: if it is not UTF-8.
        OSError: if it cannot be read.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("it is not text in UTF-8") from error


def decompress_gzip(data: bytes, most: int = MOST_BYTES) -> bytes:
    """Decompress a gzip file, which may have several members.

    Raises:
        LimitError: if it unpacks to more bytes.
        zlib.error: if it is damaged.
        EOFError: if it is incomplete.
    """
    parts, total = [], 0
    while data:
        unpacker = zlib.decompressobj(_NO_GZIP_HEADER)
        while not unpacker.eof:
            part = unpacker.decompress(data, _READ_BYTES)
            data = unpacker.unconsumed_tail
            total += len(part)
            if total > most:
                raise LimitError(
                    f"it unpacks to more than {_size(most)}", "Check where it is from, and split it by slide"
                )
            if not part and not data and not unpacker.eof:
                raise EOFError("it ends too early")
            parts.append(part)
        data = unpacker.unused_data.lstrip(b"\0")  # gzip pads the last block of a tape with zeros
    return b"".join(parts)


def parse_json(text: str | bytes) -> Any:
    """Parse JSON whose texts are Unicode, nested at most as deep as Python can recurse.

    Raises:
        LimitError: if it is nested deeper, or has a number of thousands of digits.
        ValueError: if it is not JSON, or has a text with half of a surrogate pair, which no file can hold.
    """
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise LimitError("the JSON is nested too deeply", "Write it again without nested lists") from error
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError as error:
        raise ValueError("it is not text in UTF-8") from error
    except ValueError as error:  # Python converts at most 4300 digits (sys.set_int_max_str_digits)
        raise LimitError("a number has thousands of digits", "Correct it") from error
    if isinstance(text, str) and _ESCAPED_SURROGATE.search(text):
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text has half of a surrogate pair") from error
    return document


def parse_xml(data: str | bytes, most: int = MOST_ANNOTATION_XML_BYTES, what: str = "the XML") -> Element:
    """Parse XML without a document type, whose entities can unpack to any size or name other files.

    Args:
        data: The document, as bytes in the encoding that it states or as text.
        most: Its largest length.
        what: What it is, for the message.

    Returns:
        The root element.

    Raises:
        LimitError: if it is larger, nested deeper than MOST_XML_DEPTH, or has a document type.
        ValueError: if it is not XML.
    """
    from defusedxml import DefusedXmlException, ElementTree

    remedy = "No viewer or detector writes such files. Check where it is from, and export it again"
    if len(data) > most:
        raise LimitError(f"{what} has more than {_size(most)}", remedy)
    try:
        root: Element = ElementTree.fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise LimitError(f"{what} has a document type with entities", remedy) from error
    except (ElementTree.ParseError, LookupError) as error:
        raise ValueError(str(error)) from error
    if _depth(root) > MOST_XML_DEPTH:
        raise LimitError(f"{what} has more than {MOST_XML_DEPTH} nested elements", remedy)
    return root


def _depth(root: Element) -> int:
    """How many elements are nested, counted as far as the limit."""
    level, depth = [root], 0
    while level and depth <= MOST_XML_DEPTH:
        level, depth = [child for node in level for child in node], depth + 1
    return depth


def check_lines(text: str) -> None:
    """Refuse a table of too many rows.

    Raises:
        LimitError: if it has more lines than MOST_ROWS.
    """
    if text.count("\n") > MOST_ROWS:
        raise LimitError(f"the table has more than {MOST_ROWS} rows", "Split it by slide")


def read_parquet(data: bytes) -> tuple[pa.Table, tuple[str, ...]]:
    """Read the columns of a Parquet table that hold one value in each row.

    Its size in memory is checked before it is unpacked. Texts are read as dictionaries at first: a column
    that repeats one long text needs few bytes in the file, and the length of the text for each row in memory.
    A list of any length needs few bytes as well, and how many values it has cannot be read safely: PyArrow
    (26.0) ends the process if the metadata of such a column is damaged.

    Returns:
        The table, and the names of the columns with lists, which are left out.

    Raises:
        LimitError: if it is larger than the limits.
        pyarrow.ArrowException: if it is damaged.
        OSError: likewise.
        UnicodeDecodeError: likewise.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(data)) as file:
        metadata, kinds = file.metadata, file.schema_arrow.remove_metadata()
        leaves = [metadata.schema.column(at) for at in range(metadata.num_columns)]
        lists = {leaf.path.partition(".")[0] for leaf in leaves if leaf.max_repetition_level > 0}
        kept = [leaf for leaf in leaves if leaf.path.partition(".")[0] not in lists]
        _check_parquet(metadata, len(kept))
        texts = [leaf.path for leaf in kept if leaf.physical_type in {"BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"}]
    with pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts) as file:
        table = file.read(columns=[leaf.path for leaf in kept])
    for column in table.columns:
        _check_texts(column)
    wanted = pa.schema([field for field in kinds if field.name not in lists])
    table = table.replace_schema_metadata(None).cast(wanted)
    table.validate(full=True)  # also that texts are UTF-8, which reading them does not check
    return table, tuple(sorted(lists))


def _check_parquet(metadata: Any, columns: int) -> None:
    """Check what the file states. It does not state less than is read: readers stop after these rows."""
    groups = [metadata.row_group(at) for at in range(metadata.num_row_groups)]
    rows = sum(group.num_rows for group in groups)
    for found, most, what in (
        (rows, MOST_ROWS, f"{MOST_ROWS} rows"),
        (rows * columns, MOST_CELLS, f"{MOST_CELLS} cells"),
        (sum(group.total_byte_size for group in groups), MOST_BYTES, f"{_size(MOST_BYTES)} unpacked"),
    ):
        if found > most:
            raise LimitError(f"the table has more than {what}", "Split it by slide, or leave out columns")


def _check_texts(column: pa.ChunkedArray) -> None:
    total = sum(_text_bytes(chunk) for chunk in column.chunks)
    if total > MOST_BYTES:
        raise LimitError(f"a column has more than {_size(MOST_BYTES)} unpacked", "Leave out the column")


def _text_bytes(array: pa.Array) -> int:
    """The bytes of the texts that dictionaries in an array stand for, also inside objects."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(array.type):
        return sum(_text_bytes(array.field(at)) for at in range(array.type.num_fields))
    if not pa.types.is_dictionary(array.type):
        return 0
    lengths = pc.take(pc.binary_length(array.dictionary), array.indices)
    return int(pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0)


def _size(number: int) -> str:
    return f"{number >> 30} GiB" if number >= 1 << 30 else f"{number >> 20} MiB"
