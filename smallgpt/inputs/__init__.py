"""Raw inputs as people have them: images, tables, records; read as untrusted."""
