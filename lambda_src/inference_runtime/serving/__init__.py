"""A server that scores what CloudEvents over HTTP are about, by the handler of a fused function."""
