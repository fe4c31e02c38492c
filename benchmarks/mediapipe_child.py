"""Classify images with MediaPipe's Image Classifier; runs in the environment that has mediapipe, for mediapipe_apps.py.

python mediapipe_child.py MODEL.tflite IMAGES.npz OUT.json
"""

import json
import sys
from pathlib import Path

import mediapipe
import numpy as np
from mediapipe.tasks import python
from mediapipe.tasks.python import vision


def main(model: str, images: str, out: str) -> None:
    options = vision.ImageClassifierOptions(base_options=python.BaseOptions(model_asset_path=model))
    with vision.ImageClassifier.create_from_options(options) as classifier, np.load(images) as stored:
        answers = []
        for pixels in stored["x"]:
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))
            found = classifier.classify(image).classifications[0].categories
            answers.append({each.category_name: each.score for each in found})
    Path(out).write_text(json.dumps({"version": mediapipe.__version__, "answers": answers}))


if __name__ == "__main__":
    main(*sys.argv[1:])
