import inflection


def postprocess(outputs, item):
    first, second = outputs["sums"]
    return {"label": inflection.humanize("größer" if first > second else "kleiner")}
