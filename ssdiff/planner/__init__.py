"""What a schedule costs and how far its samples are from the data, before anything is trained."""
