"""What runs in the cluster, from the app image, besides the app itself."""
