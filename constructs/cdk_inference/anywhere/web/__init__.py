"""Takes a model into web pages: a folder with the model, and a page that runs it in the browser."""
