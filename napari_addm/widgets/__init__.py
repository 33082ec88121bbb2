"""The only room that knows Qt and napari."""
