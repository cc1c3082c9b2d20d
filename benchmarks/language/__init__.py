"""A language model of half a billion parameters decides between answers, here and in transformers."""
