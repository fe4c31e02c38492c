"""Write a trained model as a `.tflite`."""
