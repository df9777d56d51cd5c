"""Wire dialects: one a file; each validates, calls the engine and shapes the answer."""
