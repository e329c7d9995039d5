"""Samplers: from noise, or a degraded image, back to a clean one."""
