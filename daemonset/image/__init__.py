"""How the agent's image is put together. None of it is in the image."""
