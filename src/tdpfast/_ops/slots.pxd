"""Memslots: what acts on one (see slots.pyx); nothing of it is called from elsewhere."""
