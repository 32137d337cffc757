"""What Homeport is installed from: a wheel, and a Debian package that brings its libraries along."""
