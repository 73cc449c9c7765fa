"""Images to score maps to class scores."""
