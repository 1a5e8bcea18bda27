"""What the server shows of itself to those who watch it: metrics, CloudWatch lines, logs. It changes nothing."""
