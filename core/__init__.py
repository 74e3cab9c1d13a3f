"""The Hapax library. It never imports ComfyUI; each part imports what it needs where it is used."""
