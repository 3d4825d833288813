"""Parts of a study: its plan, its conduct, its report, and the test that the report has."""
