"""Data sets: the demo's own and COCO's 2014 layout."""
