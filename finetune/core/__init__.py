"""What training and serving share. Nothing here imports torch, transformers, datasets or gradio at import time."""
