"""One folder per method: ``__init__`` declares it without torch, ``model`` computes."""
