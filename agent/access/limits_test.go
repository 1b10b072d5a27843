package access

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vsockrpc/vsockrpc/keys"
)

// TestMaxState: callers may add and revoke so many keys and no more; what is there
// already can be changed.
func TestMaxState(t *testing.T) {
	hosts := make([]keys.Host, maxState)
	for i := range hosts {
		hosts[i] = keys.Host{Key: keys.Public{byte(i), byte(i >> 8), 1}, Name: "full"}
	}
	path := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(path, keys.FormatHosts(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := NewHosts(&HostsConfig{StateFile: path, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	more := keys.Host{Key: hostKey(9), Name: "one-more"}
	if err := h.Add(more); !errors.Is(err, ErrNotAdded) {
		t.Errorf("one more: %v", err)
	}
	if _, status := h.Lookup(more.Key); status != KeyUnknown {
		t.Errorf("it is %v", status)
	}
	if err := h.Revoke(hosts[5].Key.Fingerprint()); err != nil {
		t.Errorf("revoke: %v", err)
	}
	if _, status := h.Lookup(hosts[5].Key); status != KeyRevoked {
		t.Errorf("the revoked key is %v", status)
	}
}
