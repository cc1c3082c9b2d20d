"""Why the model answered so: which parts of an item its answer depends on, found by hiding them from the model."""
