"""What the server keeps for its clients, one noun a file: tables of the state database and the files of `/v1/files`."""
