"""Korean data: from files on disk to the rows of a training step."""
