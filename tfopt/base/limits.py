"""How much a file may ask for. Each limit is checked before memory is taken, and named in the error.

A small file can ask for a lot: zeros shrink a thousandfold when packed, a header claims what the file does not hold,
and links lead in circles. Files that honest programs write stay far below these limits.

| what | limit | checked in |
|---|---|---|
| what a packed file grows to (.keras, .zip, .tar.gz, .gz, .zst, HDF5) | `room_for` its size on disk | everywhere |
| a .tflite, unpacked | `LARGEST_TFLITE` too | `tfopt.base.packing` |
| tensors that a .tflite computes | `LARGEST_TENSORS` | `tfopt.tflite.read.graph` |
| members of an archive | `MOST_MEMBERS` | `tfopt.base.archives` |
| arrays of a .npz, images of a folder, tf.data | `LARGEST_DATA` | `tfopt.base.archives`, `tfopt.data` |
| pixels of one image | `LARGEST_IMAGE` | `tfopt.data.images` |
| class numbers | `MOST_CLASSES` | `tfopt.data.labels` |
| JSON text, and how deep it nests | `LARGEST_JSON`, `DEEPEST_JSON` | `tfopt.base.reading` |
| groups, data sets and attributes of an HDF5 file | `MOST_OBJECTS`, `DEEPEST_GROUP` | `tfopt.models.bombs` |
"""

MIB, GIB = 2**20, 2**30

# Keras stores weights uncompressed, and weights that were trained shrink little. Even a model of zeros that someone
# compressed stays below this ratio (DEFLATE reaches 1,032 at most), or else below the bytes that no machine minds.
MOST_EXPANSION = 100
HARMLESS_BYTES = 256 * MIB

LARGEST_TFLITE = 2 * GIB  # a flatbuffer addresses no more
LARGEST_TENSORS = 8 * GIB
# Of data, the values count, however well they are compressed: a mask or one-hot labels shrink a thousandfold.
LARGEST_DATA = 8 * GIB
LARGEST_IMAGE = 2**27  # pixels; a camera of 108 megapixels stays below

MOST_MEMBERS = 10_000
MOST_CLASSES = 2**20  # arrays over the classes then take a few megabytes

LARGEST_JSON = 32 * MIB  # the config of a large model has 2
DEEPEST_JSON = 200  # brackets in brackets; a model in a model adds five

MOST_OBJECTS = 200_000
DEEPEST_GROUP = 100


def room_for(stored: int) -> int:
    """Return the bytes that a file of `stored` bytes may grow to when it is unpacked."""
    return max(HARMLESS_BYTES, MOST_EXPANSION * stored)
