"""``python -m napari_addm.cli`` is the command ``napari-addm``."""

from napari_addm.cli.process import main

if __name__ == "__main__":
    main()
