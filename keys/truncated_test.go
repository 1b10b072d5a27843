package keys

import (
	"slices"
	"strings"
	"testing"
)

// TestTruncatedFiles: of a file that was cut off anywhere, what is left says the
// same of fewer keys, or is no file at all. No key, role or revocation changes.
func TestTruncatedFiles(t *testing.T) {
	a, b, c := PublicOf(testKey(testSeed)), PublicOf(testKey(anotherSeed)), PublicOf(testKey(yetAnotherSeed))
	hosts := FormatHosts([]Host{{Key: a, Roles: []string{"info", "ops"}, Name: "alice"}, {Key: b, Revoked: true}, {Key: c}})
	all, err := ParseHosts(hosts)
	if err != nil || len(all) != 3 {
		t.Fatalf("%v, %v", all, err)
	}
	read := 0
	for n := range hosts {
		got, err := ParseHosts(hosts[:n])
		if err != nil {
			if got != nil {
				t.Errorf("%q: %v beside %v", hosts[:n], got, err)
			}
			continue
		}
		read++
		for i, h := range got {
			if h.Key != all[i].Key || h.Revoked != all[i].Revoked || !slices.Equal(h.Roles, all[i].Roles) || !strings.HasPrefix(all[i].Name, h.Name) {
				t.Errorf("%q: %+v, want %+v", hosts[:n], h, all[i])
			}
		}
	}
	// Nothing; the three keys, whole; the first name, letter by letter; line ends.
	if want := 1 + 3 + len(" alice") + 2; read != want {
		t.Errorf("%d parts of the file were read, want %d", read, want)
	}

	guests := []byte(Guest{Name: "web", Key: a}.String() + "\n" + Guest{Name: "db", Key: b}.String() + "\n")
	want, err := ParseGuests(guests)
	if err != nil {
		t.Fatal(err)
	}
	for n := range guests {
		got, err := ParseGuests(guests[:n])
		if err == nil && !slices.Equal(got, want[:len(got)]) || err != nil && got != nil {
			t.Errorf("%q: %v, %v", guests[:n], got, err)
		}
	}
}

// TestEmptyRows: rows with nothing, or with a part of what they need, are no keys.
func TestEmptyRows(t *testing.T) {
	pub := PublicOf(testKey(testSeed))
	for _, row := range []string{
		"revoked", "role=info", keyType, keyType + " ", keyType + " =", keyType + " AAAA", "AAAA", "role= " + pub.Base64(), ", " + pub.Base64(),
		"ssh-rsa " + pub.Base64(), keyType + " " + pub.Fingerprint(), pub.Fingerprint(), "\x00", keyType + "\x00" + pub.Base64(),
		"-----BEGIN PRIVATE KEY-----", "profile = \"full\"", "*", "web " + pub.String(),
	} {
		if got, err := ParseHosts([]byte(row)); err == nil || len(got) > 0 {
			t.Errorf("host %q: %v", row, got)
		}
	}
	for _, row := range []string{"web", "web " + keyType, "web " + keyType + " AAAA", " " + pub.String(), pub.String(), "* " + pub.String(), "web revoked " + pub.String(), "\x00"} {
		if got, err := ParseGuests([]byte(row)); err == nil || len(got) > 0 {
			t.Errorf("guest %q: %v", row, got)
		}
	}
	for _, nothing := range []string{"", "\n", " \t\r\n\n", "# nothing\n#\n"} {
		hosts, err := ParseHosts([]byte(nothing))
		if err != nil || len(hosts) > 0 {
			t.Errorf("%q: %v, %v", nothing, hosts, err)
		}
		guests, err := ParseGuests([]byte(nothing))
		if err != nil || len(guests) > 0 {
			t.Errorf("%q: %v, %v", nothing, guests, err)
		}
	}
}
