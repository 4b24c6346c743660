"""Pictures for the documents: the server's page and a study's report, taken in Chromium."""
