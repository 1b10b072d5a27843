//go:build linux

package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/vsockrpc/vsockrpc/internal/wait"
	"github.com/vsockrpc/vsockrpc/keys"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestStateMountedLater: an agent that has started before its state directory was
// there has the key and the keys of hosts of that directory soon after.
func TestStateMountedLater(t *testing.T) {
	dir := t.TempDir()
	state, later := filepath.Join(dir, "state"), filepath.Join(dir, "later")
	_, own, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, host, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(later, 0o700), os.WriteFile(filepath.Join(later, "id_ed25519"), keys.MarshalPrivate(own), 0o600),
		os.WriteFile(filepath.Join(later, "authorized_hosts"), []byte(keys.PublicOf(host).String()+" later\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	p := start(t, agentCommand(t, "--listen=unix:%s", "--require-keys", "--state-dir="+state))
	// As a mount does, in one step for whoever looks.
	if err := errors.Join(os.Rename(state, filepath.Join(dir, "below")), os.Rename(later, state)); err != nil {
		t.Fatal(err)
	}
	info := func() error {
		tc, err := keys.ClientConfig(host, func(k keys.Public) error {
			if k != keys.PublicOf(own) {
				return errors.New("another key")
			}
			return nil
		})
		if err != nil {
			return err
		}
		cc, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(credentials.NewTLS(tc)),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", p.sock)
			}))
		if err != nil {
			return err
		}
		defer cc.Close()
		_, err = guestv1.NewProcessServiceClient(cc).ListSessions(t.Context(), &guestv1.ListSessionsRequest{})
		return err
	}
	wait.For(t, "the agent answers", func() bool { return info() == nil })
	for _, want := range []string{"the agent's key was replaced", "the state has been replaced"} {
		if !strings.Contains(p.stderr.String(), want) {
			t.Errorf("the log does not say: %s", want)
		}
	}
}
