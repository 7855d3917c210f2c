"""What a release consists of: locked packages, their licences, and bills of materials made of both."""
