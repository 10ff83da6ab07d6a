"""A locked test cohort: ingest, seal, verify, stream."""
