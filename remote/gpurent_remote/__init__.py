"""The laptop's half of the wire to a rented host: SSH, SFTP, bundle, detached job."""
