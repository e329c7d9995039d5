"""What is fitted to data and drawn at sampling: coarse images, high frequencies."""
