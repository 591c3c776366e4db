"""Commands that read what is on disk and say what it means."""
