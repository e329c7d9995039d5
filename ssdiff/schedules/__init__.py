"""Schedules: how much noise and which resolution each timestep has."""
