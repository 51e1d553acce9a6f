"""What frozen features are worth: the linear, MLP and k-NN probes and the VOC07 SVM, on cached features."""
