"""What the panels do with the viewer: canvases, overlays, visibility."""
