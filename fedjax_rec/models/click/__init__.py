"""Labelled examples with many categorical fields."""
