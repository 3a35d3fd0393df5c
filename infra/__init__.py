"""One Pulumi program, a stack per environment."""
