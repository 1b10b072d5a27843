package access

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vsockrpc/vsockrpc/keys"
)

// look has h see its files as they are now: to be gone takes two looks.
func look(h *Hosts) {
	h.Look()
	h.Look()
}

func openHosts(t *testing.T, cfg HostsConfig) *Hosts {
	t.Helper()
	cfg.Interval = 1
	if cfg.Logger == nil {
		cfg.Logger = quiet()
	}
	h, err := NewHosts(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func status(h *Hosts, seed byte) KeyStatus {
	_, s := h.Lookup(hostKey(seed))
	return s
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestFileRemoved: the keys of a file that is removed are gone, those of a file that
// breaks are not.
func TestFileRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	put(t, path, hostKey(1).String())
	h := openHosts(t, HostsConfig{Files: []string{path}})
	before := h.Version()
	put(t, path, "nonsense")
	if look(h); status(h, 1) != KeyKnown || h.Err() == nil {
		t.Errorf("broken: %v, %v", status(h, 1), h.Err())
	}
	os.Remove(path)
	if look(h); status(h, 1) != KeyUnknown || h.Err() != nil || h.Version() == before {
		t.Errorf("removed: %v, %v", status(h, 1), h.Err())
	}
}

// TestStateRemoved: keys that were added are gone with the state file, what was
// revoked stays revoked, is in the next file, and the log says so.
func TestStateRemoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state", "hosts")
	var log bytes.Buffer
	cfg := HostsConfig{StateFile: path, Fixed: map[string][]byte{"settings": []byte(hostKey(2).Base64())}, Logger: slog.New(slog.NewTextHandler(&log, nil))}
	h := openHosts(t, cfg)
	if err := errors.Join(h.Add(keys.Host{Key: hostKey(1)}), h.Revoke(hostKey(2).Fingerprint())); err != nil {
		t.Fatal(err)
	}
	if look(h); log.Len() > 0 {
		t.Errorf("its own changes are logged as another's:\n%s", &log)
	}
	os.Remove(path)
	look(h)
	if status(h, 1) != KeyUnknown || status(h, 2) != KeyRevoked {
		t.Errorf("removed: added %v, revoked %v", status(h, 1), status(h, 2))
	}
	if !strings.Contains(log.String(), "the state is gone") || !strings.Contains(log.String(), "revoked_before=1") {
		t.Errorf("the log says nothing of it:\n%s", &log)
	}
	if err := h.Add(keys.Host{Key: hostKey(3)}); err != nil {
		t.Fatal(err)
	}
	if again := openHosts(t, cfg); status(again, 1) != KeyUnknown || status(again, 2) != KeyRevoked || status(again, 3) != KeyKnown {
		t.Errorf("after a restart: %v, %v, %v", status(again, 1), status(again, 2), status(again, 3))
	}
	// A change right after the removal does not bring back what was removed.
	os.Remove(path)
	if err := h.Add(keys.Host{Key: hostKey(4)}); err != nil || status(h, 3) != KeyUnknown {
		t.Errorf("added after the removal: %v, %v", status(h, 3), err)
	}
}

// TestStateReplaced: as when a file system is mounted over the state directory, with
// a state of its own.
func TestStateReplaced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state", "hosts")
	put(t, filepath.Join(dir, "mounted", "hosts"), hostKey(4).String()+" four\nrevoked "+hostKey(1).String()+"\n")
	var log bytes.Buffer
	h := openHosts(t, HostsConfig{StateFile: path, Fixed: map[string][]byte{"settings": []byte(hostKey(1).Base64() + "\n" + hostKey(2).Base64())},
		Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err := errors.Join(h.Add(keys.Host{Key: hostKey(3)}), h.Revoke(hostKey(2).Fingerprint())); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(filepath.Dir(path), filepath.Join(dir, "below")), os.Rename(filepath.Join(dir, "mounted"), filepath.Dir(path))); err != nil {
		t.Fatal(err)
	}
	look(h)
	for seed, want := range map[byte]KeyStatus{1: KeyRevoked, 2: KeyRevoked, 3: KeyUnknown, 4: KeyKnown} {
		if got := status(h, seed); got != want {
			t.Errorf("key %d: %v, want %v", seed, got, want)
		}
	}
	if !strings.Contains(log.String(), "read again") {
		t.Errorf("the log says nothing of it:\n%s", &log)
	}
	// What a caller adds to it keeps all it had.
	if err := h.Add(keys.Host{Key: hostKey(5)}); err != nil || status(h, 4) != KeyKnown || status(h, 1) != KeyRevoked {
		t.Errorf("added: %v, %v, %v", err, status(h, 4), status(h, 1))
	}
	put(t, path, "nonsense")
	if look(h); status(h, 4) != KeyKnown || status(h, 1) != KeyRevoked || h.Err() == nil {
		t.Errorf("broken: %v, %v, %v", status(h, 4), status(h, 1), h.Err())
	}
}

// TestStateChangedInPart: whatever changes of one key in the file is in force after a
// look, although it is the same key.
func TestStateChangedInPart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	key := hostKey(1).String()
	put(t, path, "role=info "+key+" one\n")
	h, err := NewHosts(&HostsConfig{StateFile: path, Interval: time.Hour, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		line, name string
		roles      []string
		status     KeyStatus
	}{
		{"role=ops " + key + " one", "one", []string{"ops"}, KeyKnown},
		{"role=ops " + key + " two", "two", []string{"ops"}, KeyKnown},
		{key + " two", "two", nil, KeyKnown},
		{"revoked " + key + " two", "two", nil, KeyRevoked},
	} {
		put(t, path, tt.line+"\n")
		h.Look()
		got, status := h.Lookup(hostKey(1))
		if status != tt.status || status == KeyKnown && (got.Name != tt.name || !slices.Equal(got.Roles, tt.roles)) {
			t.Errorf("%q: %+v, %v", tt.line, got, status)
		}
	}
}

// TestStateUntrusted: whoever can write the state could enrol a key, or take a
// revocation back.
func TestStateUntrusted(t *testing.T) {
	for name, spoil := range map[string]func(dir, path string) error{
		"for all to write":     func(_, path string) error { return os.Chmod(path, 0o666) },
		"a directory for all":  func(dir, _ string) error { return os.Chmod(dir, 0o777) },
		"removed, and for all": func(dir, path string) error { return errors.Join(os.Remove(path), os.Chmod(dir, 0o777)) },
		"a circle of links":    func(dir, path string) error { return errors.Join(os.Rename(path, dir+"/x"), os.Symlink(path, path)) },
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, "hosts")
		put(t, path, hostKey(1).String())
		if err := spoil(dir, path); err != nil {
			t.Fatal(err)
		}
		h := openHosts(t, HostsConfig{StateFile: path, Fixed: map[string][]byte{"settings": []byte(hostKey(2).Base64())}})
		if status(h, 1) != KeyUnknown || status(h, 2) != KeyUnknown || h.Err() == nil {
			t.Errorf("%s: %v, %v, %v; want no key known", name, status(h, 1), status(h, 2), h.Err())
		}
		if err := h.Add(keys.Host{Key: hostKey(3)}); !errors.Is(err, ErrNotAdded) {
			t.Errorf("%s: add: %v", name, err)
		}
		os.Chmod(dir, 0o755)
		os.Remove(path)
		put(t, path, hostKey(1).String())
		if look(h); status(h, 1) != KeyKnown || status(h, 2) != KeyKnown {
			t.Errorf("%s, mended: %v, %v, %v", name, status(h, 1), status(h, 2), h.Err())
		}
	}
}

// TestRevokeNotWritten: a revocation that cannot be written is in force, and an
// error.
func TestRevokeNotWritten(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state", "hosts")
	h := openHosts(t, HostsConfig{StateFile: path, Fixed: map[string][]byte{"settings": []byte(hostKey(1).Base64())}})
	put(t, filepath.Join(dir, "state"), "in the way of the directory")
	if err := h.Revoke(hostKey(1).Fingerprint()); err == nil || status(h, 1) != KeyRevoked {
		t.Errorf("%v, %v", err, status(h, 1))
	}
}

// TestNamesAreUnique: the names that callers give to keys stand for one key each,
// and never for one that the guest's own configuration has named.
func TestNamesAreUnique(t *testing.T) {
	dir := t.TempDir()
	file, state := filepath.Join(dir, "hosts"), filepath.Join(dir, "state", "hosts")
	put(t, file, hostKey(1).String()+" alice\nrevoked "+hostKey(2).String()+" gone\n")
	h := openHosts(t, HostsConfig{Files: []string{file}, StateFile: state})
	name := func(seed byte) string {
		host, _ := h.Lookup(hostKey(seed))
		return host.Name
	}
	if err := h.Add(keys.Host{Key: hostKey(3), Name: "alice"}); !errors.Is(err, ErrNameTaken) || !errors.Is(err, ErrNotAdded) || status(h, 3) != KeyUnknown {
		t.Errorf("a name of the file: %v, %v", err, status(h, 3))
	}
	for seed, n := range map[byte]string{1: "alice", 4: "gone", 5: "bob"} {
		if err := h.Add(keys.Host{Key: hostKey(seed), Name: n}); err != nil || name(seed) != n {
			t.Errorf("%s: %v, known as %q", n, err, name(seed))
		}
	}
	if err := h.Add(keys.Host{Key: hostKey(6), Name: "bob"}); !errors.Is(err, ErrNameTaken) {
		t.Errorf("a name that was added: %v", err)
	}
	if err := h.Add(keys.Host{Key: hostKey(5), Name: "bob", Roles: []string{"info"}}); err != nil {
		t.Errorf("the same key again: %v", err)
	}
	// The guest's configuration gives the name to another key, later.
	put(t, file, hostKey(7).String()+" bob\n")
	if look(h); status(h, 5) != KeyKnown || name(5) != "" || name(7) != "bob" {
		t.Errorf("bob is %q and %q", name(5), name(7))
	}
	// A state of before names were unique.
	put(t, state, hostKey(8).String()+" carol\n"+hostKey(9).String()+" carol\n")
	if look(h); name(8) != "carol" || name(9) != "" || status(h, 9) != KeyKnown {
		t.Errorf("carol is %q and %q", name(8), name(9))
	}
	for _, bad := range []string{"SHA256:PIAUDd1cumYYGTNkbMKYTXUUXbQ6CsnLJcpgDcZWD8I", "sha256:x", "*", "a*", "b?", "a\x1b[2J", "a\nb", "caf\u00e9", strings.Repeat("n", 129)} {
		if err := h.Add(keys.Host{Key: hostKey(10), Name: bad}); !errors.Is(err, ErrNotAdded) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
