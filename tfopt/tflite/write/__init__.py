"""A trained model as a `.tflite`."""
