"""Fine-tuning on a labelled task: our packed encoder, or a padded model of Transformers, in one loop."""
