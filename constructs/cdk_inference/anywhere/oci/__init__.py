"""Images as folders, in the layout of the Open Container Initiative. Nothing here needs Docker."""
