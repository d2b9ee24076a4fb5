"""Engines: how the clients of a round are played, and what surrounds them."""
