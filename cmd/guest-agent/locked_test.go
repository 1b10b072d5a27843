//go:build linux

package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/vsockrpc/vsockrpc/internal/system"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestLocked: a setting about callers that cannot be read is not as one that is
// absent, from wherever it comes.
func TestLocked(t *testing.T) {
	for _, tt := range []struct {
		kernel, env, arg string
		locked           string // a part of the reason; empty: not locked
		ok               bool   // no error
	}{
		{kernel: "guest-agent.require-keys=yes", locked: "require-keys=yes"},
		{kernel: "guest-agent.require_keys=2", locked: "require_keys=2"},
		{kernel: "guest-agent.require-key", locked: "no such setting"},
		{kernel: "guest-agent.requirekeys=1", locked: "no such setting"},
		{kernel: "guest-agent.Require-Keys=1", locked: "no such setting"},
		{kernel: "guest-agent.plicy=/p.toml", locked: "no such setting"},
		{kernel: "guest-agent.polcy=/p.toml", locked: "no such setting"},
		{kernel: "guest-agent.policy=p.toml", locked: "absolute"},
		{kernel: "guest-agent.peer=root", locked: "peer"},
		{kernel: "guest-agent.allow-cid=x", locked: "allow-cid"},
		{kernel: "guest-agent.authorized-hosts=AAAA", locked: "authorized-hosts"},
		{kernel: "guest-agent.authorised-hosts=/x", locked: "no such setting"},
		{kernel: "guest-agent.files-root=srv", locked: "files-root"},
		{kernel: "guest-agent.file-root=/srv", locked: "no such setting"},
		{kernel: "guest-agent.listen=vsock:any:1000?face=users", locked: "face"},
		{kernel: "guest-agent.state-dir=x", locked: "state-dir"},
		{kernel: "guest-agent.audit=yes", locked: "audit"},
		{env: "GUEST_AGENT_REQUIRE_KEYS=yes", locked: "REQUIRE_KEYS"},
		{env: "GUEST_AGENT_REQUIRE_KEY=1", locked: "no such setting"},
		{arg: "--require-keys=yes", locked: "require-keys"},
		{arg: "--require-key", locked: "require-key"},
		{arg: "require-keys", locked: "flags only"},
		{kernel: "guest-agent.require-keys guest-agent.dance=1", ok: true},
		{kernel: "guest-agent.grace=x guest-agent.log-level=loud"},
		{env: "GUEST_AGENT_SING=1", ok: true},
		{env: "GUEST_AGENT_INIT=maybe"},
	} {
		var args []string
		if tt.arg != "" {
			args = []string{tt.arg}
		}
		s, err := parseSettings(args, []string{tt.env}, system.ParseKernelArgs(tt.kernel), io.Discard)
		if (err == nil) != tt.ok || (s.locked != "") != (tt.locked != "") || !strings.Contains(s.locked, tt.locked) {
			t.Errorf("%s%s%s: locked %q, %v; want %q", tt.kernel, tt.env, tt.arg, s.locked, err, tt.locked)
		}
	}
}

// TestBrokenCredential: a credential that cannot be read or parsed may have revoked a
// key, so nobody is served more than health until it is mended.
func TestBrokenCredential(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"nonsense":    func(path string) error { return os.WriteFile(path, []byte("revoke ssh-ed25519 AAAA"), 0o600) },
		"too large":   func(path string) error { return os.WriteFile(path, make([]byte, maxCredential+1), 0o600) },
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"for all to write": func(path string) error {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Chmod(path, 0o666)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := spoil(filepath.Join(dir, hostsCredential)); err != nil {
				t.Fatal(err)
			}
			cmd := agentCommand(t, "--listen=unix:%s")
			cmd.Env = append(cmd.Env, "CREDENTIALS_DIRECTORY="+dir)
			p := start(t, cmd)
			cc := dial(t, p.sock)
			h, err := healthv1.NewHealthClient(cc).Check(t.Context(), &healthv1.HealthCheckRequest{}, grpc.WaitForReady(true))
			if err != nil || h.GetStatus() != healthv1.HealthCheckResponse_SERVING {
				t.Errorf("health: %v, %v", h, err)
			}
			_, err = guestv1.NewAgentServiceClient(cc).Info(t.Context(), &guestv1.InfoRequest{})
			if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), hostsCredential) && !strings.Contains(err.Error(), "credential") {
				t.Errorf("info: %v", err)
			}
			if !strings.Contains(p.stderr.String(), "nothing but health is served") {
				t.Errorf("the log does not say it:\n%s", p.stderr)
			}
		})
	}
}
