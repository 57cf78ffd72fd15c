"""Many tasks, models and seeds: jobs that resume, and one table with what can be concluded."""
