"""What hosts and services send, made safe to read and to show. Everything from outside enters through here."""
