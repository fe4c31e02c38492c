"""Post-training quantization of weights: steps, rounding and corrections of a trained model."""
