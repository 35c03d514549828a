"""The monitor's page and API: see server.py for what there is."""
