"""Rows: what a source's input becomes at the door, and what steps and keys make of it.

`door` admits a frame, `json` decodes a stream's records into one, `transform` runs a feature set's steps
on admitted rows. `identity` holds the definitions of hashes and ranks, one value at a time and without
Polars; `hashing` computes the same for whole columns.
"""
