"""Train again on what came back: decide, number the dataset, start one execution for it, and judge what comes out."""
