"""Retraining: new labels, a job that trains, a gate that decides, and a release that takes the model out."""
