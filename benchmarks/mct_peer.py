"""Run Model Compression Toolkit for quantize_peers.py, in a separate environment.

    python -m venv mct && mct/bin/pip install tensorflow==2.15.1 model-compression-toolkit==2.6.1
    mct/bin/python benchmarks/mct_peer.py MODEL.h5 SAMPLES.npz OUT_FOLDER

Writes predictions for the test images and the exported files, and prints one line of JSON: seconds and what failed.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def main(model_file: str, samples_file: str, folder: str) -> None:
    import model_compression_toolkit as mct
    import numpy as np
    import tensorflow as tf

    arrays = np.load(samples_file)
    calibration, test = arrays["calibration"], arrays["test"]
    model = tf.keras.models.load_model(model_file, compile=False)
    float_bytes = sum(4 * w.size for layer in model.layers for w in layer.get_weights() if w.ndim > 1)

    def representative():
        for start in range(0, len(calibration), 32):
            yield [calibration[start : start + 32]]

    def mixed(memory):
        core = mct.core.CoreConfig(mixed_precision_config=mct.core.MixedPrecisionQuantizationConfig(num_of_images=32))
        return {"core_config": core, "target_resource_utilization": mct.core.ResourceUtilization(weights_memory=memory)}

    plans = {"ptq": {}, "mixed": mixed(float_bytes / 8)}  # half the size of 8 bits
    said = {}
    for name, kwargs in plans.items():
        started = time.perf_counter()
        try:
            quantized, _ = mct.ptq.keras_post_training_quantization(model, representative, **kwargs)
            seconds = time.perf_counter() - started
            np.save(Path(folder) / f"{name}.npy", quantized.predict(test, batch_size=500, verbose=0))
            said[name] = {"seconds": seconds}
            mct.exporter.keras_export_model(
                model=quantized,
                save_model_path=str(Path(folder) / f"{name}.tflite"),
                serialization_format=mct.exporter.KerasExportSerializationFormat.TFLITE,
                quantization_format=mct.exporter.QuantizationFormat.FAKELY_QUANT,
            )
        except Exception as error:
            said.setdefault(name, {})["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
