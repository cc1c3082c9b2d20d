"""Explanations of answers: when they are made, by what, and how faithful they were when the app was synthesized."""
