"""What TensorFlow computes on: GPUs if there are any, else CPU cores; and in which precision.

In half precision TensorFlow rewrites the graphs it runs: products and convolutions are computed in 16 bits, and what
needs more, such as losses, softmax and statistics, in 32. Variables and models stay float32, so this works for all that
trains, whatever is wrapped around its layers.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfopt.base.words import counted

# Options of TensorFlow's graph optimizer; the first works on GPUs, and on CPUs with AVX512-FP16; the second on CPUs.
_REWRITES = {"float16": "auto_mixed_precision", "bfloat16": "auto_mixed_precision_onednn_bfloat16"}
# A number that the precision cannot hold, though TensorFloat-32 can, and what becomes of it.
_ROUNDED = {"float16": (1e5, float("inf")), "bfloat16": (1 + 2**-9, 1.0)}
_FAST = {"float16": {"avx512_fp16", "amx_fp16"}, "bfloat16": {"avx512_bf16", "amx_bf16"}}


def grow_gpu_memory() -> None:
    """Let TensorFlow take memory of GPUs as it needs it, not all at once, unless it has begun to use them."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)


def number_of_threads() -> int:
    """Return the number of threads that share an operation of TensorFlow."""
    import tensorflow as tf

    chosen = tf.config.threading.get_intra_op_parallelism_threads() or os.environ.get("TF_NUM_INTRAOP_THREADS")
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return int(chosen or 0) or len(mine)


def device_name() -> str:
    """Return what TensorFlow computes on, in words, such as "2 CPU cores" or "1 GPU (NVIDIA H200)"."""
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    return f"{counted(len(gpus), 'GPU')} ({device_kind()})" if gpus else counted(number_of_threads(), "CPU core")


def device_kind() -> str:
    """Return the kind of what TensorFlow computes on: "CPU", or the names of the GPUs."""
    import tensorflow as tf

    if not tf.config.list_logical_devices("GPU"):
        return "CPU"
    details = (tf.config.experimental.get_device_details(gpu) for gpu in tf.config.get_visible_devices("GPU"))
    return ", ".join(dict.fromkeys(each.get("device_name", "unknown") for each in details))


@contextmanager
def computing_in(precision: str) -> Iterator[None]:
    """Run TensorFlow graphs in `precision` inside this block: "float32", "float16" or "bfloat16"."""
    import tensorflow as tf

    if precision == "float32":
        yield
        return
    option = _REWRITES[precision]
    before = tf.config.optimizer.get_experimental_options().get(option, False)
    tf.config.optimizer.set_experimental_options({option: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({option: before})


def has_precision(precision: str) -> bool:
    """Return whether TensorFlow computes in `precision` on this machine, as a product of two numbers tells."""
    import tensorflow as tf

    if precision == "float32":
        return True
    number, rounded = _ROUNDED[precision]
    product = tf.function(tf.matmul)
    with computing_in(precision):
        found = product(tf.fill((8, 1), number), tf.ones((1, 8)))
    return bool(found[0, 0] == rounded)


def is_slow(precision: str) -> bool:
    """Return whether the CPU that computes in `precision` has no instructions for it; False if unknown."""
    import tensorflow as tf

    if precision == "float32" or tf.config.list_logical_devices("GPU"):
        return False
    flags = _cpu_flags()
    return bool(flags) and not flags & _FAST[precision]


def _cpu_flags() -> set[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()
