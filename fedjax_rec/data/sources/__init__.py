"""Where data come from: files in the formats of the field, downloads, and synthetic worlds."""
