//go:build linux

package hostile

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/keys"
	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
)

type dialer = func(context.Context) (net.Conn, error)

// fortress is an agent with keys and a policy, as root of the host reaches it, and
// as its users do.
type fortress struct {
	agent       *agent.Agent
	root, users dialer
	usersPath   string // of the socket that users dials
}

// Keys that a fortress knows: of one who may do little, and of one who may do
// everything.
var (
	greedyKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	fullKey   = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
)

// newFortress serves an agent in which greedyKey has a profile.
func newFortress(t testing.TB, profile string, cfg *agent.Config) *fortress {
	t.Helper()
	return newFortressWith(t, fmt.Sprintf("[roles.greedy]\nprofile = %q\n", profile), cfg)
}

// newFortressWith serves an agent with the role greedy, as a policy has it.
func newFortressWith(t testing.TB, role string, cfg *agent.Config) *fortress {
	t.Helper()
	lines := fmt.Sprintf("role=greedy %s greedy\nrole=full %s full\n", keys.PublicOf(greedyKey), keys.PublicOf(fullKey))
	hosts, err := access.NewHosts(&access.HostsConfig{Fixed: map[string][]byte{"test": []byte(lines)}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "policy.toml")
	text := role + "\n[roles.root]\npeers = ['host-root']\nprofile = 'full'\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	cfg.Hosts, cfg.Policy, cfg.Logger = hosts, policy.Open(path, quiet), quiet
	a, err := agent.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &fortress{agent: a}
	as := func(port uint32) string {
		return f.serveAs(t, transport.Peer{Network: transport.NetworkVsock, CID: transport.CIDHost, Port: port})
	}
	f.usersPath = as(50_000)
	f.root, f.users = dialUnix(as(900)), dialUnix(f.usersPath)
	return f
}

// serveAs serves on another socket, whose clients are a peer, and returns its path.
func (f *fortress) serveAs(t testing.TB, p transport.Peer) string {
	t.Helper()
	return servePath(t, func(l net.Listener) error { return f.agent.Serve(peerListener{l, p}) })
}

// withKey returns a client that shows a key; the caller closes it.
func (f *fortress) withKey(t testing.TB, key ed25519.PrivateKey) *rpc.Client {
	t.Helper()
	return keyClient(t, key, f.users)
}

func keyClient(t testing.TB, key ed25519.PrivateKey, dial dialer) *rpc.Client {
	t.Helper()
	tc, err := keys.ClientConfig(key, func(keys.Public) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	return rpc.NewClient(dial, &rpc.ClientConfig{TLS: tc, Logger: slog.New(slog.DiscardHandler)})
}

// dialUnix dials as host-ctl does: it waits while the socket's queue is full.
func dialUnix(path string) dialer {
	return func(ctx context.Context) (net.Conn, error) {
		a, err := transport.ParseAddr("unix:" + path)
		if err != nil {
			return nil, err
		}
		return transport.Dial(ctx, a, nil)
	}
}
