"""Raw data to rows: images, token rows, texts, instructions."""
