"""What `make demo` and its sisters run: each deploys an app to an embedded AWS, and shows what came of it."""
