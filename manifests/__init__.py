"""The parquet tables of a curated folder: one schema, atomic writing, reading and accounting."""
