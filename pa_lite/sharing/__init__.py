"""Taking a model elsewhere: commands and files for other programs, model cards, and uploads to the Hub."""
