"""What the files of a run folder are called. Imports nothing: a report of a run starts at once."""

RECIPE_FILE = "recipe.yaml"  # resolved
PROVENANCE_FILE = "provenance.json"
METRICS_FILE = "metrics.jsonl"
POSITIONS_FILE = "positions.jsonl"  # of the streams, at every checkpoint: where `modernbert plan` starts from
REPORT_FILE = "report.png"
WANDB_ID_FILE = "wandb_id"
CHECKPOINT_FOLDER = "checkpoints"
LOCK_FILE = "run.lock"  # held by the run that is at work
