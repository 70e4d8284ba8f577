"""What a person may write: pydantic models, loading with line numbers, overrides, provenance. Free of
torch."""
