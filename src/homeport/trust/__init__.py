"""Who is who between servers: certificates, registration keys, join passphrases, TLS 1.3 on both sides."""
