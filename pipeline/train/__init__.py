"""Training: one loop, which trains cohorts; a lone trial is a cohort of one."""
