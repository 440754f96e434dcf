"""What every process has, whatever it runs: an HTTP server, the admin port, retries while a service is unavailable."""
