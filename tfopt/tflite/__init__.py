"""The `.tflite`: settings, reading it, proving what it holds, writing it."""
