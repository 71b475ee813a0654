"""Networks: functions that return functional graphs, which know nothing of training."""
