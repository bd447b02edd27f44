"""Raw data to rows: images, token rows, texts, instructions.

A function a command: `images.prepare_digits`, `images.prepare_images`, `token_rows.prepare_tokens`,
`texts.prepare_text`, `instructions.prepare_instructions`. Each reads its input (`image_formats`,
`records`, `text_files`), splits it (`splits`, `text_splits`), makes a codebook (`image_codebook`)
or a vocabulary (`text_vocabulary`), and writes a folder (`folder`), or nothing if it fails.
"""
