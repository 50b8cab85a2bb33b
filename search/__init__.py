"""What runs: the study's record, the sampler, the scheduler, and Ray, which carries the trials out."""
