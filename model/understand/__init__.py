"""What a product is, from its title and text: attributes by rule, labels by a trained tagger."""
