package access

import (
	"os"
	"path/filepath"
	"testing"
)

// TestNothingIsNoProof: a table of keys that is absent, empty, truncated or of
// another kind lets nobody in, and says so if it is not what it should be.
func TestNothingIsNoProof(t *testing.T) {
	key := hostKey(1)
	whole := "role=ops " + key.String() + "\n"
	for name, tt := range map[string]struct {
		text   string
		broken bool
	}{
		"empty":                   {"", false},
		"blank":                   {"\n\n \t\n", false},
		"comments":                {"# " + key.String() + "\n", false},
		"truncated in the key":    {whole[:len(whole)-10], true},
		"truncated in the option": {"role=", true},
		"an option alone":         {"role=full\n", true},
		"a fingerprint":           {key.Fingerprint() + "\n", true},
		"an unknown option":       {"from=* " + key.String() + "\n", true},
		"an unknown type":         {"ssh-rsa " + key.Base64() + "\n", true},
		"a policy":                {"[roles.a]\nkeys = [\"*\"]\nprofile = \"full\"\n", true},
		"known_guests":            {"web " + key.String() + "\n", true},
		"one bad line of two":     {whole + "x\n", true},
		"zeroes":                  {"\x00\x00\x00\x00", true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "hosts")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			for where, cfg := range map[string]*HostsConfig{
				"file":  {Files: []string{path}, Logger: quiet()},
				"state": {StateFile: path, Logger: quiet()},
				"fixed": {Fixed: map[string][]byte{"credential": []byte(tt.text)}, Logger: quiet()},
			} {
				h, err := NewHosts(cfg)
				if h == nil {
					t.Fatalf("%s: %v", where, err)
				}
				host, status := h.Lookup(key)
				if status == KeyKnown || !h.Empty() {
					t.Errorf("%s: the key is known: %+v", where, host)
				}
				if broken := err != nil || h.Err() != nil; broken != tt.broken {
					t.Errorf("%s: %v, %v; want an error: %t", where, err, h.Err(), tt.broken)
				}
			}
		})
	}
}
