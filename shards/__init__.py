"""Tar shards: deterministic writing, index, sample order, streaming."""
