"""Networks; they know nothing of processes."""
