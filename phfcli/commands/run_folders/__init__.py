"""The commands that look after what runs leave on disk: list, follow, check, fold into a model, upload."""
