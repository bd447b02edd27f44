"""Files: safe reading of untrusted input, atomic writing, locks, the Hugging Face hub."""
