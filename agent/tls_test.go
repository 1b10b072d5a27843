//go:build linux

package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/keys"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// authority is a CA of somebody who has one.
type authority struct {
	t    *testing.T
	key  ed25519.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T, seed byte) *authority {
	t.Helper()
	ca := &authority{t: t, key: seedKey(seed)}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(24 * time.Hour)}
	ca.cert = ca.sign(template, template, ca.key)
	return ca
}

func (ca *authority) sign(template, parent *x509.Certificate, key ed25519.PrivateKey) *x509.Certificate {
	ca.t.Helper()
	der, err := x509.CreateCertificate(nil, template, parent, key.Public(), ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		ca.t.Fatal(err)
	}
	return cert
}

// issue returns a certificate; change may change what it says.
func (ca *authority) issue(seed byte, change func(*x509.Certificate)) tls.Certificate {
	ca.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(int64(seed)), Subject: pkix.Name{CommonName: "somebody"}, DNSNames: []string{"agent"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(24 * time.Hour)}
	if change != nil {
		change(template)
	}
	key := seedKey(seed)
	return tls.Certificate{Certificate: [][]byte{ca.sign(template, ca.cert, key).Raw}, PrivateKey: key}
}

func (ca *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// client returns a configuration of one who trusts ca.
func (ca *authority) client(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: ca.pool(), ServerName: "agent", Certificates: certs}
}

// showing returns tc with a certificate that is shown whatever CAs a server names.
func showing(tc *tls.Config, cert tls.Certificate) *tls.Config {
	tc.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	return tc
}

// TestOwnTLS: with a tls.Config of the user's own, a CA says who is trusted, over
// both wires, and who else is told what the rules for that are.
func TestOwnTLS(t *testing.T) {
	ca, other := newAuthority(t, 30), newAuthority(t, 31)
	uri := func(s string) func(*x509.Certificate) {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return func(c *x509.Certificate) { c.URIs = []*url.URL{u} }
	}
	path := filepath.Join(t.TempDir(), "policy.toml")
	text := "[roles.ci]\nkeys=['spiffe://example.org/ci']\nprofile='ops'\n[roles.somebody]\nkeys=['somebody']\nprofile='info'\n[roles.root]\npeers=['host-root']\nprofile='full'\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	serverTLS := func(auth tls.ClientAuthType) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{ca.issue(32, nil)}, ClientCAs: ca.pool(), ClientAuth: auth}
	}
	selfSigned, err := keys.Certificate(fullKey)
	if err != nil {
		t.Fatal(err)
	}
	expired := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Unix(0, 0), time.Unix(1000, 0) }
	forServers := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }

	for _, tt := range []struct {
		name        string
		auth        tls.ClientAuthType
		requireKeys bool
		port        uint32
		client      *tls.Config
		rule        string     // "": no connection
		facts, use  codes.Code // ListSessions; Remove, which finds nothing
	}{
		{name: "by URI", auth: tls.VerifyClientCertIfGiven, port: hybridPort, client: ca.client(ca.issue(33, uri("spiffe://example.org/ci"))), rule: access.RuleCertificate, facts: codes.OK, use: codes.NotFound},
		{name: "by common name", auth: tls.RequireAndVerifyClientCert, port: hybridPort, client: ca.client(ca.issue(33, nil)), rule: access.RuleCertificate, facts: codes.OK, use: codes.PermissionDenied},
		{name: "by a name that has no role", auth: tls.RequireAndVerifyClientCert, port: hybridPort, client: ca.client(ca.issue(33, uri("spiffe://example.org/other"))), rule: access.RuleCertificate, facts: codes.PermissionDenied, use: codes.PermissionDenied},
		{name: "a certificate counts as a key", auth: tls.VerifyClientCertIfGiven, requireKeys: true, port: hybridPort, client: ca.client(ca.issue(33, nil)), rule: access.RuleCertificate, facts: codes.OK, use: codes.PermissionDenied},
		{name: "TLS without a certificate", auth: tls.VerifyClientCertIfGiven, port: hybridPort, client: ca.client(), rule: access.RuleHostRoot, facts: codes.Unauthenticated, use: codes.Unauthenticated},
		{name: "the host's root without a certificate", auth: tls.VerifyClientCertIfGiven, port: 900, client: ca.client(), rule: access.RuleHostRoot, facts: codes.OK, use: codes.NotFound},
		{name: "the host's root without TLS", auth: tls.RequireAndVerifyClientCert, port: 900, rule: access.RuleHostRoot, facts: codes.OK, use: codes.NotFound},
		{name: "the host's root where keys are required", auth: tls.VerifyClientCertIfGiven, requireKeys: true, port: 900, rule: access.RuleKeyRequired, facts: codes.Unauthenticated, use: codes.Unauthenticated},
		{name: "a certificate that nobody checks", auth: tls.RequireAnyClientCert, port: hybridPort, client: showing(ca.client(), other.issue(33, uri("spiffe://example.org/ci"))), rule: access.RuleHostRoot, facts: codes.Unauthenticated, use: codes.Unauthenticated},
		{name: "a key of authorized_hosts", auth: tls.RequestClientCert, port: hybridPort, client: showing(ca.client(), selfSigned), rule: access.RuleKey, facts: codes.PermissionDenied, use: codes.PermissionDenied},
		{name: "required, and none given", auth: tls.RequireAndVerifyClientCert, port: hybridPort, client: ca.client()},
		{name: "of another CA", auth: tls.VerifyClientCertIfGiven, port: hybridPort, client: showing(ca.client(), other.issue(33, uri("spiffe://example.org/ci")))},
		{name: "expired", auth: tls.VerifyClientCertIfGiven, port: hybridPort, client: ca.client(ca.issue(33, expired))},
		{name: "a server's", auth: tls.VerifyClientCertIfGiven, port: hybridPort, client: ca.client(ca.issue(33, forServers))},
		{name: "a client of another CA", auth: tls.VerifyClientCertIfGiven, port: hybridPort, client: other.client(ca.issue(33, nil))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, l := serve(t, &Config{TLS: serverTLS(tt.auth), RequireKeys: tt.requireKeys, Hosts: gridHosts(t), Policy: policy.Open(path, discard())}, nil)
			dial := func(ctx context.Context) (net.Conn, error) { return l.dial(ctx, vsockPeer(2, tt.port)) }
			for wire, cc := range secureClients(t, dial, tt.client) {
				t.Run(wire, func(t *testing.T) { checkOwnTLS(t, cc, tt.rule, tt.facts, tt.use) })
			}
		})
	}
}

func checkOwnTLS(t *testing.T, cc grpc.ClientConnInterface, rule string, facts, use codes.Code) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	info, err := guestv1.NewAgentServiceClient(cc).Info(ctx, &guestv1.InfoRequest{})
	if rule == "" {
		if status.Code(err) != codes.Unavailable {
			t.Errorf("info: %v, %v; want no connection", info, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := info.GetAccess(); got.GetRule() != rule || got.GetTrusted() != (facts != codes.Unauthenticated) {
		t.Errorf("access %v, want rule %s", got, rule)
	}
	sessions := guestv1.NewProcessServiceClient(cc)
	if _, err := sessions.ListSessions(ctx, &guestv1.ListSessionsRequest{}); status.Code(err) != facts {
		t.Errorf("facts: %v, want %v", err, facts)
	}
	_, err = sessions.Remove(ctx, &guestv1.RemoveRequest{SessionId: []byte(strings.Repeat("x", 16))})
	if status.Code(err) != use {
		t.Errorf("use: %v, want %v", err, use)
	}
}
