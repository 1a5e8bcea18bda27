"""Rollouts: wave by wave over a fleet's rings, judged by what devices report, put back where a gate says so."""
