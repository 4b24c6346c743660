"""Guards against what other people made: strict JSON, safe names, kinds of files, limited processes."""
