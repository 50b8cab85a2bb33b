"""What a trial does: corpora, features, models, losses, metrics and the training loop; knows nothing of Ray."""
