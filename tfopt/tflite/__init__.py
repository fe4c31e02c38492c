"""`.tflite` files: their settings, and code to read, verify and write them."""
