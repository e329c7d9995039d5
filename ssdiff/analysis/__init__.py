"""What can be said of a process without training anything, in closed form."""
