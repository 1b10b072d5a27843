package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"sync/atomic"
	"time"
)

// Certificate returns a certificate for TLS that key has signed itself. Its
// dates say nothing: a guest's clock may be at 1970.
func Certificate(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "vsockrpc"},
		NotBefore:    time.Unix(0, 0),
		// "No well-defined expiration date" (RFC 5280, section 4.1.2.5).
		NotAfter:    time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate of an own key: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// PeerKey returns the key that the peer of a TLS connection has shown, and
// proved to have. ok is false if it showed none, or none of this kind.
func PeerKey(cs tls.ConnectionState) (key Public, ok bool) {
	if len(cs.PeerCertificates) == 0 {
		return Public{}, false
	}
	pub, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok || len(pub) != len(key) {
		return Public{}, false
	}
	copy(key[:], pub)
	return key, true
}

// ServerConfig returns a configuration for a server that shows key, and asks its
// clients for theirs without insisting: who they are and what they may do is
// for the server to decide, by PeerKey, call by call.
func ServerConfig(key ed25519.PrivateKey) (*tls.Config, error) {
	cert, err := Certificate(key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{cert},
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true, // each connection proves its key anew
	}, nil
}

// FollowKey has a configuration of ServerConfig show what key returns when a client
// connects. Key may be called concurrently.
func FollowKey(cfg *tls.Config, key func() ed25519.PrivateKey) {
	var last atomic.Pointer[tls.Certificate]
	cfg.Certificates = nil
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		now := key()
		if cert := last.Load(); cert != nil && now.Equal(cert.PrivateKey.(ed25519.PrivateKey)) {
			return cert, nil
		}
		cert, err := Certificate(now)
		if err != nil {
			return nil, err
		}
		last.Store(&cert)
		return &cert, nil
	}
}

// ErrNoKey is the error of a server that shows no key.
var ErrNoKey = errors.New("the server shows no Ed25519 key")

// ClientConfig returns a configuration for a client that shows key, if it is not
// nil, and takes the servers whose key verify returns nil for.
func ClientConfig(key ed25519.PrivateKey, verify func(Public) error) (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// The name and the dates of the certificate mean nothing here:
		// VerifyConnection compares the key, in every handshake.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			pub, ok := PeerKey(cs)
			if !ok {
				return ErrNoKey
			}
			return verify(pub)
		},
	}
	if key != nil {
		cert, err := Certificate(key)
		if err != nil {
			return nil, err
		}
		// Whatever CAs a server may name.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return cfg, nil
}
