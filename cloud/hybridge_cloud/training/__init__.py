"""From a project folder to a trained run: the task a user writes, the loop, and what a run leaves behind."""
