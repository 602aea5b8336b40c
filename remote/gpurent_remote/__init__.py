"""The laptop's half of the wire to a rented host: SSH, SFTP, bundle, detached job."""

from gpurent_remote.connector import SshConnector

__all__ = ["SshConnector"]
