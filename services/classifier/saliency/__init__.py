"""What an answer rests on, drawn over the image."""
