"""Guards against untrusted input: strict JSON, safe file names, file types, sandboxed processes."""
