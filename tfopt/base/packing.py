"""A `.tflite` entropy-coded, so that zeros and repeated weights save bytes on disk and on the way to a phone.

What Han et al. 2015 ("Deep Compression", arXiv:1510.00149, section 4) do with Huffman codes. The containers are those
that everybody can open: `gunzip` and `zstd -d` give the file back.
"""

import gzip
import zlib
from dataclasses import dataclass

from tfopt.errors import ModelError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
ZSTD_LEVEL = 22


@dataclass(frozen=True)
class Packed:
    """A packed `.tflite`: its bytes, and the suffix that says how they are packed, ".gz" or ".zst"."""

    data: bytes
    suffix: str


def pack(data: bytes) -> Packed:
    """The bytes of a `.tflite` by gzip or by zstd, whichever gives fewer; the same bytes give the same result.

    Raises ModelError for what is not a `.tflite`.
    """
    if data[4:8] != b"TFL3":
        raise ModelError(f"Only a .tflite can be packed: bytes 4 to 8 must be b'TFL3'; they are {data[4:8]!r}.")
    return min((Packed(_gzipped(data), ".gz"), Packed(_zstd(data), ".zst")), key=lambda packed: len(packed.data))


def is_packed(head: bytes) -> bool:
    """Whether bytes that begin with `head` may be what `pack` gives."""
    return head.startswith((_GZIP, _ZSTD))


def unpack(data: bytes) -> bytes:
    """What `pack` was given; anything that is not packed comes back as it is. Raises ModelError for a broken one."""
    if not is_packed(data):
        return data
    return _gunzipped(data) if data.startswith(_GZIP) else _unzstd(data)


def _gzipped(data: bytes) -> bytes:
    """The shortest of zlib's strategies: LZ77 finds little in clustered weights, and its matches cost bits."""
    strategies = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY)
    coders = [zlib.compressobj(9, zlib.DEFLATED, 31, 9, strategy) for strategy in strategies]
    return min((coder.compress(data) + coder.flush() for coder in coders), key=len)


def _gunzipped(data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ModelError(f"The packed .tflite is broken: {error}.") from error


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compress(data)


def _unzstd(data: bytes) -> bytes:
    import zstandard

    decoder = zstandard.ZstdDecompressor().decompressobj()
    try:
        unpacked = decoder.decompress(data)
    except zstandard.ZstdError as error:
        raise ModelError(f"The packed .tflite is broken: {error}.") from error
    if not decoder.eof:
        raise ModelError("The packed .tflite is broken: its end is missing.")
    return unpacked
