"""The requests that make a push, by a pattern for each, so that a test can let any of them fail."""

STEPS = {
    "head": "GET /api/models/alice/m/revision/main",
    "create": "POST /api/repos/create",
    "card": "POST /api/validate-yaml",
    "preupload": "POST .*/preupload/",
    "commit": "POST .*/commit/",
    "tag": "POST .*/tag/",
    "head of the tag": "GET .*/revision/v1",
}
STORAGE = {
    True: {"token": "GET .*/xet-write-token/", "xorb": "POST .*/xorbs/", "shard": "POST .*/shards"},
    False: {"batch": "POST .*/objects/batch", "put": "PUT /lfs/", "verify": "POST .*/lfs/verify"},
}
