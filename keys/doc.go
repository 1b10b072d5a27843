// Package keys holds the keys by which a host and a guest know each other, and
// the files that they are kept in: as with ssh, each side has an Ed25519 key,
// and a list of those of the other side. There is no CA and no date.
//
// A public key is written as OpenSSH writes it ("ssh-ed25519 AAAA... comment")
// and has the fingerprint that ssh-keygen -l prints. A private key is PKCS #8 in
// PEM. Under TLS 1.3 a key stands in a certificate that it has signed itself:
// nothing of the certificate counts but the key, whose possession the handshake
// proves.
//
// Nothing here does more I/O than reading and writing a file of a private key.
package keys
