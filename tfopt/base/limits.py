"""Limits on what a file may demand. Each is checked before memory is allocated, and named in the error.

A small file can demand a lot: zeros compress a thousandfold, a header can claim more than the file holds, and links
can form cycles. Files that honest programs write stay far below these limits.

| what | limit | checked in |
|---|---|---|
| unpacked size of a packed file (.keras, .zip, .tar.gz, .gz, .zst, HDF5) | `room_for` its size on disk | everywhere |
| a .tflite, unpacked | also `LARGEST_TFLITE` | `tfopt.base.packing` |
| tensors that a .tflite computes | `LARGEST_TENSORS` | `tfopt.tflite.read.graph` |
| members of an archive | `MOST_MEMBERS` | `tfopt.base.archives` |
| arrays of a checkpoint; their bytes | `MOST_ARRAYS`; as many as its file has | `tfopt.base.archives` |
| arrays of a .npz, labels | `LARGEST_DATA` | `tfopt.base.archives`, `tfopt.data` |
| samples of a stream that may have no end | `MOST_SAMPLES` | `tfopt.data.long_read` |
| pixels of one image | `LARGEST_IMAGE` | `tfopt.data.images` |
| samples of one recording | `LARGEST_SOUND` | `tfopt.data.recordings` |
| class numbers | `MOST_CLASSES` | `tfopt.tasks.labels` |
| JSON text, and its nesting depth | `LARGEST_JSON`, `DEEPEST_JSON` | `tfopt.base.reading` |
| groups, data sets and attributes of an HDF5 file | `MOST_OBJECTS`, `DEEPEST_GROUP` | `tfopt.models.bombs` |
"""

MIB, GIB = 2**20, 2**30

# Keras stores weights uncompressed, and trained weights compress little. Even a compressed model of zeros stays below
# this ratio (DEFLATE reaches at most 1,032) or below a size that is harmless on any machine.
MOST_EXPANSION = 100
HARMLESS_BYTES = 256 * MIB

LARGEST_TFLITE = 2 * GIB  # the address space of a flatbuffer
LARGEST_TENSORS = 8 * GIB
# For data the values count, however well they compress: a mask or one-hot labels shrink a thousandfold.
LARGEST_DATA = 8 * GIB
MOST_SAMPLES = 10_000_000  # of a stream that does not say its length; steps= says that more are meant
LARGEST_SOUND = 2**28  # samples of all channels; 25 minutes of stereo at 88.2 kHz
SLOWEST_SOUND, FASTEST_SOUND = 1_000, 768_000  # samples per second; other headers are damaged
# Decoded images and streams above this lie in a temporary file, which only the disk limits.
LARGEST_IN_MEMORY = GIB
LARGEST_IMAGE = 2**27  # pixels; above a 108-megapixel camera

MOST_MEMBERS = 10_000
MOST_ARRAYS = 200_000  # of the state of a training: a large model has thousands of weights, each with its slots
MOST_CLASSES = 2**20  # keeps arrays over the classes at a few megabytes

LARGEST_JSON = 32 * MIB  # the config of a large model takes 2 MiB
DEEPEST_JSON = 200  # levels of brackets; a nested model adds five

MOST_OBJECTS = 200_000
DEEPEST_GROUP = 100


def room_for(stored: int) -> int:
    """Return the most bytes that a file of `stored` bytes may unpack to."""
    return max(HARMLESS_BYTES, MOST_EXPANSION * stored)
