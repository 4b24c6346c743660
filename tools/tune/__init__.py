"""How well `pa-lite tune` chooses from thirty rows: the embedded pair's families, drawn many times."""
