"""Tells a team how a deployed pipeline is doing: drift, dashboards and alarms."""
