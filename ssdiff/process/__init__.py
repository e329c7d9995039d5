"""Forward processes and their exact posteriors."""
