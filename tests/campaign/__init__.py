"""The campaign: commands are killed, stopped, fed with damage and robbed of their disk, many times.

`python -m tests.campaign --minutes 5` tries until the time is up; docs/campaign.md says what is tried and
what came of it last. A trial is decided by (seed, kind, number), so that `--only NUMBER` repeats it.
"""
