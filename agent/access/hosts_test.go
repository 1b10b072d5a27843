package access

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/vsockrpc/vsockrpc/keys"
)

func hostKey(seed byte) keys.Public {
	return keys.PublicOf(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestHosts(t *testing.T) {
	dir := t.TempDir()
	file, state := filepath.Join(dir, "hosts"), filepath.Join(dir, "state", "hosts")
	a, b, c, d := hostKey(1), hostKey(2), hostKey(3), hostKey(4)
	if err := os.WriteFile(file, []byte(a.String()+" alice\nrole=info "+b.String()+" bob\nrevoked "+c.String()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := &HostsConfig{Files: []string{file, filepath.Join(dir, "absent")}, StateFile: state, Logger: quiet(),
		Fixed: map[string][]byte{"kernel command line": []byte(c.Base64() + "\nrole=ops " + b.Base64())}}
	h, err := NewHosts(cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := func(when string, key keys.Public, status KeyStatus, name, role string) {
		t.Helper()
		host, got := h.Lookup(key)
		gotRole := ""
		if len(host.Roles) > 0 {
			gotRole = host.Roles[0]
		}
		if got != status || status == KeyKnown && (host.Name != name || gotRole != role) {
			t.Errorf("%s: %v, %+v; want %v, %q, role %q", when, got, host, status, name, role)
		}
	}
	want("from a file", a, KeyKnown, "alice", "")
	want("fixed before file", b, KeyKnown, "", "ops")
	want("revoked in a file, allowed elsewhere", c, KeyRevoked, "", "")
	want("unknown", d, KeyUnknown, "", "")
	if h.Empty() || len(h.List()) != 5 || h.Err() != nil {
		t.Errorf("empty %t, %d lines, %v", h.Empty(), len(h.List()), h.Err())
	}

	if err := h.Add(keys.Host{Key: d, Name: "dora", Roles: []string{"ops"}}); err != nil {
		t.Error(err)
	}
	if err := h.Add(keys.Host{Key: c}); err != nil {
		t.Error(err)
	}
	if err := h.Revoke(a.Fingerprint()); err != nil {
		t.Error(err)
	}
	if err := h.Revoke(hostKey(9).Fingerprint()); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("an unknown key: %v", err)
	}
	if err := h.Add(keys.Host{Key: d, Name: "two\nlines"}); !errors.Is(err, ErrNotAdded) {
		t.Errorf("a name with a line end: %v", err)
	}
	for _, when := range []string{"now", "after a restart"} {
		want(when+", added", d, KeyKnown, "dora", "ops")
		want(when+", revoked by a caller", a, KeyRevoked, "", "")
		want(when+", revoked by the file", c, KeyRevoked, "", "")
		if h, err = NewHosts(cfg); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Add(keys.Host{Key: a, Name: "alice"}); err != nil {
		t.Error(err)
	}
	want("added again", a, KeyKnown, "alice", "")

	// Who cannot know what was revoked takes no key.
	os.WriteFile(state, []byte("nonsense\n"), 0o600)
	h, err = NewHosts(cfg)
	if err != nil || h.Err() == nil {
		t.Errorf("broken state: %v, %v", err, h.Err())
	}
	want("broken state", a, KeyUnknown, "", "")
	if err := h.Add(keys.Host{Key: a}); !errors.Is(err, ErrNotAdded) {
		t.Errorf("broken state, add: %v", err)
	}
}

func TestHostsWithoutState(t *testing.T) {
	h, err := NewHosts(&HostsConfig{Fixed: map[string][]byte{"credential": []byte("nonsense"), "command line": []byte(hostKey(1).Base64())}, Logger: quiet()})
	if err == nil {
		t.Error("nonsense was taken")
	}
	if _, status := h.Lookup(hostKey(1)); status != KeyKnown {
		t.Errorf("the key beside nonsense: %v", status)
	}
	if err := h.Add(keys.Host{Key: hostKey(2)}); err == nil || errors.Is(err, ErrNotAdded) {
		t.Errorf("add without a state file: %v; want it in force, and told that it does not last", err)
	}
	if _, status := h.Lookup(hostKey(2)); status != KeyKnown {
		t.Errorf("added: %v", status)
	}
	var none *Hosts
	if _, status := none.Lookup(hostKey(1)); status != KeyUnknown || !none.Empty() || none.Err() != nil || none.List() != nil {
		t.Error("a nil Hosts knows something")
	}
}
