"""What is computed: data, attacks, losses, optimisers and methods, in pure PyTorch."""
