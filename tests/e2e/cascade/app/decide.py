"""A function of the user's own that decides."""


def decide(item):
    if "nowhere" in item.key:
        return "a branch that is not there"
    if "fails" in item.key:
        raise RuntimeError("as it was told")
    return "many" if "many" in item.key else "few"
