"""Families of decoders: what each does that others do not, read from its config.json."""
