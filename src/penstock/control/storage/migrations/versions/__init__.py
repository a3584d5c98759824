"""One file a schema version, numbered; never edited once released."""
