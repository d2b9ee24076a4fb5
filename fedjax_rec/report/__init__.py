"""What is made of finished runs: tables, figures, and the page of results with its targets."""
