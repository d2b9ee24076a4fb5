"""Lists of several models put together, and their first items ranked anew."""
