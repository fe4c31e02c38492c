"""What a task is: labels, loss, outputs, metrics, and whether responses are logits or probabilities."""
