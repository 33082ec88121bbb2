"""``python -m napari_addm`` is the command ``napari-addm``."""

from napari_addm.cli import main

if __name__ == "__main__":
    main()
