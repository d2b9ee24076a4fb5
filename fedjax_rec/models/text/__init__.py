"""Items by their text, and language models that recommend."""
