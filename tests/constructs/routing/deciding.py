"""A user's function that decides, for the tests of routing."""


def decide(item):
    return "left" if item.size % 2 else "right"
