"""Build public models of many kinds, and compare what their users see with what float32 shows them."""
