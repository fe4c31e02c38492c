"""The stored bytes of a constant as numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def decoded(stored: bytes | NDArray[np.uint8], dtype: str, count: int) -> NDArray[Any]:
    """Return the `count` values of a constant, flat; integers below 8 bits come as int8 or uint8.

    Raises TypeError for a dtype that NumPy has not, such as "string".
    """
    raw = np.frombuffer(stored, np.uint8)
    bits = {"int4": 4, "uint4": 4, "int2": 2}.get(dtype)
    if bits:
        return _unpack(raw, bits, signed=dtype.startswith("int"))[:count]
    return raw.view(_numpy_dtype(dtype))


def _unpack(raw: NDArray[np.uint8], bits: int, *, signed: bool) -> NDArray[Any]:
    """Return the 8 / bits values that each byte packs, lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = (raw[:, None] >> shifts & (2**bits - 1)).reshape(-1)
    if not signed:
        return values
    return np.where(values >= 2 ** (bits - 1), values.astype(np.int8) - 2**bits, values).astype(np.int8)


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
