"""The dashboard: pages and small JSON for whoever runs the gateway, without a build step."""
