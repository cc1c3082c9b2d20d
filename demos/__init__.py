"""Demo scripts: each deploys an app to an embedded AWS, and shows what came of it."""
