"""Transformers and their adapters: encoders, decoders, LoRA, quantised weights."""
