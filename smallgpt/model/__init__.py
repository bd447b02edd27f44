"""The model: built or loaded, its forward pass, its folder."""
