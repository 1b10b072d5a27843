//go:build linux

package hostile

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/agent"
	"github.com/vsockrpc/vsockrpc/agent/access"
	"github.com/vsockrpc/vsockrpc/agent/policy"
	"github.com/vsockrpc/vsockrpc/keys"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
)

// guarded is an agent that knows keys, some of which have few rights.
type guarded struct {
	t             *testing.T
	dir           string
	hosts, policy string // its files
	dial          func(context.Context) (net.Conn, error)
}

// seedKey returns the same key for the same seed.
func seedKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func publicKey(seed byte) keys.Public { return keys.PublicOf(seedKey(seed)) }

// The keys of the tests: one that may do everything, and two with what the test gives
// them.
const (
	ownSeed   = 100
	adminSeed = iota
	aliceSeed
	bobSeed
)

// guard starts an agent with files of keys and policy; an empty text is no file.
func guard(t *testing.T, hosts, rules string) *guarded {
	t.Helper()
	dir := t.TempDir()
	g := &guarded{t: t, dir: dir, hosts: filepath.Join(dir, "authorized_hosts"), policy: filepath.Join(dir, "policy.toml")}
	g.write(g.hosts, hosts)
	g.write(g.policy, rules)
	const often = 10 * time.Millisecond
	log := slog.New(slog.DiscardHandler)
	known, err := access.NewHosts(&access.HostsConfig{Files: []string{g.hosts}, StateFile: filepath.Join(dir, "state", "authorized_hosts"), Logger: log, Interval: often,
		Fixed: map[string][]byte{"test": []byte("role=full " + publicKey(adminSeed).String() + " admin")}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(&agent.Config{Key: seedKey(ownSeed), Hosts: known, RequireKeys: true, Policy: policy.Open(g.policy, log), Logger: log, RecheckInterval: often})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	g.dial = serve(t, a.Serve)
	return g
}

// write puts a file in place as a whole, or takes it away.
func (g *guarded) write(path, text string) {
	g.t.Helper()
	if text == "" {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			g.t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		g.t.Fatal(err)
	}
}

// endsConn is a connection that tells when the other side has ended it, or has had
// this one do so.
type endsConn struct {
	net.Conn
	ended func()
}

func (c endsConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.ended()
	}
	return n, err
}

func (c endsConn) Close() error {
	c.ended()
	return c.Conn.Close()
}

// client returns a client that shows a key, over a wire, and a channel that is closed
// when its first connection has ended.
func (g *guarded) client(seed byte, wire string) (grpc.ClientConnInterface, <-chan struct{}) {
	g.t.Helper()
	ended := make(chan struct{})
	var once sync.Once
	dial := func(ctx context.Context) (net.Conn, error) {
		nc, err := g.dial(ctx)
		if err != nil {
			return nil, err
		}
		return endsConn{nc, func() { once.Do(func() { close(ended) }) }}, nil
	}
	tc, err := keys.ClientConfig(seedKey(seed), func(keys.Public) error { return nil })
	if err != nil {
		g.t.Fatal(err)
	}
	if wire == "native" {
		c := rpc.NewClient(dial, &rpc.ClientConfig{TLS: tc, Logger: slog.New(slog.DiscardHandler)})
		g.t.Cleanup(func() { c.Close() })
		return c, ended
	}
	c, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(credentials.NewTLS(tc)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { c.Close() })
	return c, ended
}

var wires = []string{"native", "grpc"}

// id returns a session's or transfer's id that begins with a name.
func id(name string) []byte { return fmt.Appendf(nil, "%-16.16s", name) }

// start starts a program in a session.
func start(ctx context.Context, cc grpc.ClientConnInterface, session string, args ...string) error {
	spec := &guestv1.SessionSpec{}
	for _, a := range args {
		spec.Args = append(spec.Args, []byte(a))
	}
	_, err := guestv1.NewProcessServiceClient(cc).Start(ctx, &guestv1.StartRequest{SessionId: id(session), Spec: spec})
	return err
}

// reasonOf returns the word of an error.
func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if detail, ok := d.(*guestv1.ErrorDetail); ok {
			return detail.GetReason()
		}
	}
	return ""
}

// toEnd receives to the end of a stream, and returns its error.
func toEnd(st grpc.ClientStream, m any) error {
	for {
		if err := st.RecvMsg(m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// wantWord checks how a call was ended.
func wantWord(t *testing.T, what string, err error, code codes.Code, reason string) {
	t.Helper()
	if status.Code(err) != code || reasonOf(err) != reason || strings.TrimSpace(status.Convert(err).Message()) == "" {
		t.Errorf("%s: %v (%s), want %v, %s", what, err, reasonOf(err), code, reason)
	}
}
