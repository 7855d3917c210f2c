"""Pure decoders: bytes in, values out, at any chunking; any other outcome is the decoder's own error."""
