package keys

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// testKey returns the key that a byte stands for.
func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// A key made by ssh-keygen -t ed25519, and what ssh-keygen -l says of it.
const (
	sshLine        = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJeBHhOUKUHIeILcFs8pkSFnDKU+GuoRWKvkOXLuFNnV"
	wrongTypeBlob  = "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBA=="
	testSeed       = 7
	anotherSeed    = 8
	yetAnotherSeed = 9
)

func TestPublicText(t *testing.T) {
	p, comment, err := ParsePublic(sshLine + " alice@host x")
	if err != nil {
		t.Fatal(err)
	}
	if p.String() != sshLine || comment != "alice@host x" {
		t.Errorf("read back as %q, comment %q", p, comment)
	}
	alone, _, err := ParsePublic(strings.Fields(sshLine)[1])
	if err != nil || alone != p {
		t.Errorf("without its type: %v, %v", alone, err)
	}
	if err := CheckFingerprint(p.Fingerprint()); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "ssh-ed25519", "ssh-rsa AAAA", sshLine[:len(sshLine)-1], sshLine + "A", "ssh-ed25519 " + wrongTypeBlob,
		strings.Replace(sshLine, "V", "*", 1), "ecdsa-sha2-nistp256 " + wrongTypeBlob} {
		if p, _, err := ParsePublic(bad); err == nil {
			t.Errorf("%q was read as %v", bad, p)
		}
	}
	for _, bad := range []string{"", "SHA256:", "MD5:00:11", p.Fingerprint() + "A", p.Fingerprint()[:49], strings.ToLower(p.Fingerprint()[:7]) + p.Fingerprint()[7:]} {
		if CheckFingerprint(bad) == nil {
			t.Errorf("fingerprint %q was taken", bad)
		}
	}
}

func TestPrivateFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "key")
	key, made, err := ReadOrMake(path)
	if err != nil || !made {
		t.Fatalf("first: made %t, %v", made, err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	again, made, err := ReadOrMake(path)
	if err != nil || made || !key.Equal(again) {
		t.Errorf("second: made %t, the same %t, %v", made, key.Equal(again), err)
	}
	if err := WritePrivate(path, key); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a key was written over: %v", err)
	}
	os.Chmod(path, 0o640)
	if _, err := ReadPrivate(path); err == nil {
		t.Error("a key that others may read was taken")
	}
	os.Chmod(path, 0o600)
	os.WriteFile(path, []byte("nonsense"), 0o600)
	if _, made, err := ReadOrMake(path); err == nil || made {
		t.Errorf("a broken file: made %t, %v; it must not be replaced in silence", made, err)
	}
	// Where nothing can be kept there is a key all the same, and the reason.
	key, made, err = ReadOrMake(filepath.Join(path, "below-a-file"))
	if err == nil || made && key == nil {
		t.Errorf("no place to keep it: %v, made %t, %v", key, made, err)
	}
}

func TestHosts(t *testing.T) {
	a, b, c := PublicOf(testKey(testSeed)), PublicOf(testKey(anotherSeed)), PublicOf(testKey(yetAnotherSeed))
	text := "# hosts\n\n" + a.String() + " alice the first\n  role=ops,role=info " + b.String() + "\t bob\r\nrevoked " + c.Base64() + "\n"
	got, err := ParseHosts([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []Host{
		{Key: a, Name: "alice the first"},
		{Key: b, Name: "bob", Roles: []string{"ops", "info"}},
		{Key: c, Revoked: true},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	back, err := ParseHosts(FormatHosts(got))
	if d := cmp.Diff(want, back); d != "" || err != nil {
		t.Errorf("written and read: %v\n%s", err, d)
	}
	for _, bad := range []string{
		"nonsense", "role= " + sshLine, "from=1.2.3.4 " + sshLine, "role=a,,role=b " + sshLine, "role=../x " + sshLine,
		sshLine + " \x1b[31m", sshLine + " caf\u00e9", strings.Repeat("x", maxLine+1), "role=ops", "REVOKED " + sshLine,
	} {
		if h, err := ParseHosts([]byte(sshLine + "\n" + bad)); err == nil || h != nil {
			t.Errorf("%.60q was read as %v", bad, h)
		} else if !strings.HasPrefix(err.Error(), "line 2: ") {
			t.Errorf("%.60q: %v does not name the line", bad, err)
		}
	}
	for _, h := range []Host{{Name: "a\nb"}, {Name: " a"}, {Name: "a  b"}, {Roles: []string{"a b"}}, {Roles: []string{""}}} {
		if h.Check() == nil {
			t.Errorf("%+v was taken", h)
		}
	}
}

func TestGuests(t *testing.T) {
	a, b := PublicOf(testKey(testSeed)), PublicOf(testKey(anotherSeed))
	got, err := ParseGuests([]byte("web " + a.String() + "\n#x\nweb " + b.Base64() + " new\n"))
	if d := cmp.Diff([]Guest{{"web", a}, {"web", b}}, got); d != "" || err != nil {
		t.Errorf("%v\n%s", err, d)
	}
	for _, bad := range []string{"web", sshLine, "we/b " + sshLine, "-web " + sshLine, "web ssh-rsa AAAA"} {
		if g, err := ParseGuests([]byte(bad)); err == nil {
			t.Errorf("%q was read as %v", bad, g)
		}
	}
}

// TestHandshake: the two configurations understand each other, each side learns
// the other's key, and a client that expects another one says so.
func TestHandshake(t *testing.T) {
	serverKey, clientKey := testKey(testSeed), testKey(anotherSeed)
	wrong := errors.New("wrong key")
	tests := []struct {
		name   string
		key    ed25519.PrivateKey
		verify error
	}{
		{"right key", clientKey, nil},
		{"no key", nil, nil},
		{"other guest", clientKey, wrong},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sc, err := ServerConfig(serverKey)
			if err != nil {
				t.Fatal(err)
			}
			var seen Public
			cc, err := ClientConfig(tt.key, func(p Public) error { seen = p; return tt.verify })
			if err != nil {
				t.Fatal(err)
			}
			a, b := net.Pipe()
			defer a.Close()
			defer b.Close()
			server := tls.Server(b, sc)
			served := make(chan error, 1)
			go func() { served <- server.Handshake() }()
			err = tls.Client(a, cc).Handshake()
			if !errors.Is(err, tt.verify) {
				t.Fatalf("client: %v", err)
			}
			if seen != PublicOf(serverKey) {
				t.Errorf("the client was shown %v", seen)
			}
			if tt.verify != nil {
				return
			}
			if err := <-served; err != nil {
				t.Fatalf("server: %v", err)
			}
			got, ok := PeerKey(server.ConnectionState())
			if ok != (tt.key != nil) || ok && got != PublicOf(clientKey) {
				t.Errorf("the server was shown %v, %t", got, ok)
			}
		})
	}
}

func FuzzHosts(f *testing.F) {
	f.Add([]byte("# x\nrole=ops,revoked " + sshLine + " alice\n\n" + sshLine))
	f.Add([]byte("revoked," + sshLine))
	f.Fuzz(func(t *testing.T, data []byte) {
		hosts, err := ParseHosts(data)
		if err != nil {
			return
		}
		back, err := ParseHosts(FormatHosts(hosts))
		if err != nil {
			t.Fatalf("written and read: %v", err)
		}
		if d := cmp.Diff(hosts, back); d != "" {
			t.Fatalf("written and read: -want +got\n%s", d)
		}
	})
}

func FuzzGuests(f *testing.F) {
	f.Add([]byte("web " + sshLine + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		guests, err := ParseGuests(data)
		if err != nil {
			return
		}
		var b bytes.Buffer
		for _, g := range guests {
			b.WriteString(g.String() + "\n")
		}
		back, err := ParseGuests(b.Bytes())
		if d := cmp.Diff(guests, back); d != "" || err != nil {
			t.Fatalf("written and read: %v\n%s", err, d)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(MarshalPrivate(testKey(testSeed)))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := ParsePrivate(data)
		if err != nil {
			return
		}
		if back, err := ParsePrivate(MarshalPrivate(key)); err != nil || !back.Equal(key) {
			t.Fatalf("written and read: %v", err)
		}
	})
}

// TestClocks: no clock of either side stands in the way, be it at 1970, as in a
// guest without a real-time clock, or far ahead.
func TestClocks(t *testing.T) {
	guest, host := testKey(testSeed), testKey(anotherSeed)
	past := func() time.Time { return time.Unix(0, 0).Add(-24 * time.Hour) }
	future := func() time.Time { return time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC) }
	for name, clocks := range map[string][2]func() time.Time{"the guest's at 1970": {past, nil}, "the host's at 1970": {nil, past}, "the guest's ahead": {future, past}, "the host's ahead": {past, future}} {
		sc, err := ServerConfig(guest)
		if err != nil {
			t.Fatal(err)
		}
		cc, err := ClientConfig(host, func(p Public) error {
			if p != PublicOf(guest) {
				return errors.New("another guest")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		sc.Time, cc.Time = clocks[0], clocks[1]
		a, b := net.Pipe()
		server, client := tls.Server(a, sc), tls.Client(b, cc)
		done := make(chan error, 1)
		go func() { done <- server.Handshake() }()
		if err := errors.Join(client.Handshake(), <-done); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if key, ok := PeerKey(server.ConnectionState()); !ok || key != PublicOf(host) {
			t.Errorf("%s: the guest knows %v, %t", name, key, ok)
		}
		a.Close()
		b.Close()
	}
}
