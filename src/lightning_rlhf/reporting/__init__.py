"""Reports for people: the HTML page and the plots."""
