"""Deploy the example for texts to an embedded AWS, and find sentences that mean the same: `make demo-text`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from cdk_inference import LambdaPlatform
from cdk_inference.local import LocalCloud, LocalError
from cdk_inference.local.steps import Steps
from cdk_inference.model import build_model
from demos.photographs import console, show_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cdk_inference.local import Outcome

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "model_assets" / "minilm" / "recipe.py"
APP = "python3 examples/sentences/app.py"

# Each means nearly the same as its neighbour, in other words.
PAIRS = {
    "A cat is asleep on the sofa.": "The kitten naps on the couch.",
    "The central bank raised its interest rates.": "Borrowing money is getting more expensive.",
    "The program crashes when I open a file.": "Opening any document makes the application quit.",
    "How do I bake a loaf of bread?": "Recipe for sourdough: flour, water, salt.",
}


def main() -> int:
    """Run the demo; the exit code is that of `make demo-text`."""
    texts = {f"{number}.txt": text for number, text in enumerate(text for pair in PAIRS.items() for text in pair)}
    began = time.monotonic()
    with LocalCloud() as cloud, Steps(console, ("synthesizing", "deploying", "embedding", "stopping")) as steps:
        cloud.deploy(ROOT, app=APP, on_line=steps.line, on_step=steps.begin)
        steps.begin(f"embedding {len(texts)} texts")
        inbox = cloud.pipeline()
        uploads = [inbox.put(key, text.encode()) for key, text in texts.items()]
        outcomes = cloud.wait_for(uploads, on_line=steps.line, on_failure=steps.tell)
        steps.begin("stopping the embedded AWS")
    vectors = {texts[o.key]: vector(o) for o in outcomes if o.status == "SUCCEEDED"}
    found = nearest(vectors) if vectors else {}
    partners = PAIRS | {second: first for first, second in PAIRS.items()}
    wrong = [text for text in texts.values() if text not in found or found[text][0] != partners[text]]

    table = Table("text", "nearest", "similarity")
    for text, (other, similarity) in found.items():
        table.add_row(text, other, f"{similarity:.2f}", style="red" if text in wrong else None)
    console.print(table)
    # From the cache: the synth above built it for this machine's processor.
    show_model(build_model(RECIPE, architecture=LambdaPlatform.host().architecture).manifest)
    console.print(f"\nIn all {time.monotonic() - began:.0f} s.")
    if wrong:
        console.print(f"\n[red]no vector, or another text is nearer than expected: {', '.join(wrong)}")
    return 1 if wrong else 0


def vector(outcome: Outcome) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the vector in a row of the table of results."""
    return np.frombuffer((outcome.row or {})["prediction"]["embedding"].value, "<f4")


def nearest(vectors: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, tuple[str, float]]:
    """Return for each text the other whose vector is closest, with the cosine of the two."""
    names = list(vectors)
    matrix = np.array(list(vectors.values()))
    similarity = matrix @ matrix.T
    np.fill_diagonal(similarity, -1)
    return {
        name: (names[best], float(row[best]))
        for name, row in zip(names, similarity, strict=True)
        for best in (int(row.argmax()),)
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LocalError as error:
        console.print(f"[red]error: {error}")
        sys.exit(1)
