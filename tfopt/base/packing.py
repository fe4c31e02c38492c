"""Entropy coding of a `.tflite`, so that zeros and repeated weights save bytes on disk and in transfer.

Han et al. 2015 ("Deep Compression", arXiv:1510.00149, section 4) do this with Huffman codes. The containers are
standard: `gunzip` and `zstd -d` restore the file.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from tfopt.base.limits import LARGEST_TFLITE, MIB, room_for
from tfopt.base.reading import reading
from tfopt.errors import ModelError

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
ZSTD_LEVEL = 22
_STEP = 1024


@dataclass(frozen=True)
class Packed:
    """A packed `.tflite`: its bytes, and the suffix of the packing, ".gz" or ".zst"."""

    data: bytes
    suffix: str


def pack(data: bytes) -> Packed:
    """Pack a `.tflite` with gzip or zstd, whichever is smaller. The result is deterministic.

    Raises:
        ModelError: `data` is not a `.tflite`, or it compresses so well that `unpack` would reject it.
    """
    if data[4:8] != b"TFL3":
        raise ModelError(f"Only a .tflite can be packed: bytes 4 to 8 must be b'TFL3'; they are {data[4:8]!r}.")
    packed = min((Packed(_gzipped(data), ".gz"), Packed(_zstd(data), ".zst")), key=lambda packed: len(packed.data))
    if len(data) > (most := _most(packed.data)):
        raise ModelError(
            f"The .tflite of {len(data):,} bytes packs to {len(packed.data):,}, and a packed file of that size may "
            f"unpack to at most {most:,}. Keep it unpacked."
        )
    return packed


def is_packed(head: bytes) -> bool:
    """Return whether bytes that begin with `head` may be a result of `pack`."""
    return head.startswith((_GZIP, _ZSTD))


def unpack(data: bytes, name: str = "The packed .tflite") -> bytes:
    """Return the input of `pack`; return data that is not packed unchanged.

    Raises:
        ModelError: the data is broken, or would unpack to more than `limits.room_for` its size or
            `limits.LARGEST_TFLITE`; unpacking stops there. The message calls it `name`.
    """
    if not is_packed(data):
        return data
    most, unpacked = _most(data), bytearray()
    with reading(lambda why: _broken(name, why)):
        for piece in _pieces(data):
            unpacked += piece
            if len(unpacked) > most:
                raise ModelError(
                    f"{name} would grow from {len(data):,} to more than {most:,} bytes when unpacked, which no .tflite "
                    "does. Do not trust where it came from."
                )
    return bytes(unpacked)


def unpacked_head(data: bytes, name: str = "The packed .tflite") -> bytes:
    """Return the first bytes of the packed data, at least 8 if it has them. Raise ModelError if it is broken."""
    head = b""
    with reading(lambda why: _broken(name, why)):
        for piece in _pieces(data):
            head += piece
            if len(head) >= 8:
                break
    return head


def _most(data: bytes) -> int:
    return min(LARGEST_TFLITE, room_for(len(data)))


def _broken(name: str, why: str) -> ModelError:
    return ModelError(f"{name} is broken: {why.rstrip('.')}. Copy or pack it again.")


def _pieces(data: bytes) -> Iterator[bytes]:
    return _gunzipped(data) if data.startswith(_GZIP) else _unzstd(data)


def _gzipped(data: bytes) -> bytes:
    """Return the shortest of zlib's results: LZ77 finds little in clustered weights, and its matches cost bits."""
    strategies = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY)
    coders = [zlib.compressobj(9, zlib.DEFLATED, 31, 9, strategy) for strategy in strategies]
    return min((coder.compress(data) + coder.flush() for coder in coders), key=len)


def _gunzipped(data: bytes) -> Iterator[bytes]:
    with gzip.open(io.BytesIO(data)) as file:
        while piece := file.read(MIB):
            yield piece


def _zstd(data: bytes) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compress(data)


def _unzstd(data: bytes) -> Iterator[bytes]:
    """Yield the content of all frames, as `zstd -d` does, in small steps: four bytes may expand to 128 kB."""
    import zstandard

    waiting = memoryview(data)
    while waiting:
        decoder = zstandard.ZstdDecompressor().decompressobj()
        while waiting and not decoder.eof:
            yield decoder.decompress(waiting[:_STEP])
            waiting = waiting[min(_STEP, len(waiting)) - len(decoder.unused_data) :]
        if not decoder.eof:
            raise EOFError("its end is missing")
