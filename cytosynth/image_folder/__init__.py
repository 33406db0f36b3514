"""The one reader of ImageFolder trees, ``<class>/…/<image>``, for client and trainer."""
