//go:build linux

package main

import (
	"bytes"
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vsockrpc/vsockrpc/agent/policy"
)

// smbiosTable makes a table with a processor, the maker's strings and an end.
func smbiosTable(strs ...string) []byte {
	b := []byte{4, 6, 0, 0, 1, 2, 'C', 'P', 'U', 0, 0}
	b = append(b, smbiosStrings, 5, 1, 0, byte(len(strs)))
	for _, s := range strs {
		b = append(append(b, s...), 0)
	}
	return append(b, 0, smbiosEnd, 4, 2, 0, 0, 0)
}

func TestCredential(t *testing.T) {
	const name = "guest-agent.authorized_hosts"
	write := func(root, path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root := t.TempDir()
	check := func(want, from string) {
		t.Helper()
		text, got, err := credential(root, filepath.Join(root, "own"), name)
		if err != nil || string(text) != want || got != from {
			t.Errorf("got %q from %q, %v; want %q from %q", text, got, err, want, from)
		}
	}
	check("", "")
	write(root, "sys/firmware/dmi/tables/DMI", string(smbiosTable("other", "io.systemd.credential:x=y", "io.systemd.credential.binary:"+name+"="+base64.StdEncoding.EncodeToString([]byte("a\nb")))))
	check("a\nb", "SMBIOS")
	write(root, "sys/firmware/dmi/tables/DMI", string(smbiosTable("io.systemd.credential:"+name+"=c d")))
	check("c d", "SMBIOS")
	write(root, "sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/"+name+"/raw", "e")
	check("e", "fw_cfg")
	write(root, "run/credentials/@system/"+name, "f")
	check("f", "system")
	write(root, "own/"+name, "g")
	check("g", "service")
}

func FuzzSMBIOS(f *testing.F) {
	f.Add(smbiosTable("a", "io.systemd.credential:n=v"))
	f.Add(smbiosTable("io.systemd.credential.binary:n=!"))
	f.Fuzz(func(t *testing.T, table []byte) {
		text, err := smbiosCredential(table, "n")
		if err == nil && text != nil && !bytes.Contains(table, []byte("io.systemd.credential")) {
			t.Errorf("found %q where there is nothing", text)
		}
	})
}

func TestPolicyCommand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.toml")
	os.WriteFile(path, []byte("[roles.a]\nkeys=['ci']\npeers=['host-root']\n[[roles.a.allow]]\nargs=[['uptime']]\n"), 0o600)
	broken := path + "x"
	os.WriteFile(broken, []byte("[roles.a]\nprofile='x'\n"), 0o600)
	for _, tt := range []struct {
		args string
		code int
		out  string
	}{
		{"test " + path, exitOK, "1 roles"},
		{"test " + path + " --key ci exec uptime", exitOK, "allowed by roles.a.allow[0]"},
		{"test " + path + " --peer host-root exec uptime", exitOK, "allowed"},
		{"test " + path + " --role a exec uptime", exitOK, "allowed"},
		{"test " + path + " --key bob exec uptime", exitFailure, "no role"},
		{"test " + path + " --key ci exec id", exitFailure, "needed: "},
		{"test " + path + " --key ci frobnicate", exitUsage, ""},
		{"test " + path + " --nonsense", exitUsage, ""},
		{"test " + broken, exitUsage, ""},
		{"test " + path + "y", exitUsage, ""},
		{"test --key ci " + path + " exec uptime", exitOK, "allowed by roles.a.allow[0]"},
		{"test --help", exitOK, "usage: "},
		{"-h", exitOK, "usage: "},
		{"test --key ci", exitUsage, ""},
		{"show " + path, exitUsage, ""},
		{"", exitUsage, ""},
	} {
		var out, errs bytes.Buffer
		code := runPolicy(strings.Fields(tt.args), &out, &errs)
		if code != tt.code || !strings.Contains(out.String(), tt.out) || (code == exitUsage) != (errs.Len() > 0) {
			t.Errorf("%s: %d, %q, %q", tt.args, code, out.String(), errs.String())
		}
	}
}

func TestPolicyState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.toml")
	log := slog.New(slog.DiscardHandler)
	for _, tt := range []struct{ text, want string }{
		{"", "none"}, {"read_only = true", path}, {"audit_only = true", "audit-only: " + path}, {"x", "broken: " + path},
	} {
		if tt.text != "" {
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := policyState(policy.Open(path, log)); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.text, got, tt.want)
		}
	}
}
