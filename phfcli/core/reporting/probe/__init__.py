"""The page of `phf probe`: `probe_page` writes it, `probe_charts` draws its pictures."""
