"""Stand-in data sets: drawn scenes with exact boxes, masks and tags, in Pascal VOC layout."""
