"""Decodes recordings: WAV with NumPy alone, FLAC and Ogg with libsndfile."""
