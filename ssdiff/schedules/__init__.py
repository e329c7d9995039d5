"""Schedules: how much noise and which resolution each severity has."""
