"""How the aggregated update changes the server's model."""
