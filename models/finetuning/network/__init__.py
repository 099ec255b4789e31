"""A network: backbone, head, pretrained weights, and what of it trains."""
