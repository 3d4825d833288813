"""Parts of `tools.study`: the plan of a study, its conduct, and its report."""
