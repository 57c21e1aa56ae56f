"""The page that reads X-rays in a browser, and the report of one X-ray."""
