"""Tables, figures and the page of a profile, from result files only."""
