"""ComfyUI nodes: each a schema, a clone, a closure over `core`, a return."""
