package policy

import (
	"testing"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// TestPlaces: addresses are compared as addresses, names as names and ports as
// numbers, as a rule that allows and as one that denies has it.
func TestPlaces(t *testing.T) {
	for _, tt := range []struct {
		place, network, address string
		allow, deny             bool
	}{
		{"tcp:10.0.0.*:80", "tcp", "10.0.0.1:80", true, true},
		{"tcp:10.0.0.*:80", "tcp", "10.0.0.1.evil.com:80", false, false},
		{"tcp:10.0.0.*:80", "tcp", "10.0.0.evil.com:80", false, false},
		{"tcp:10.0.0.*:80", "tcp", "10.0.1.0:80", false, false},
		{"tcp:10.0.0.*:80", "tcp", "[::ffff:10.0.0.7]:80", true, true},
		{"tcp:10.0.0.*:80", "tcp4", "10.0.0.1:0080", true, true},
		{"tcp:10.0.0.*:80", "tcp", "10.0.0.1:8080", false, false},
		{"tcp:10.0.0.*:80", "tcp", "10.0.0.1:http", false, true}, // what http is says the guest
		{"tcp:10.0.0.*:80", "udp", "10.0.0.1:80", false, false},
		{"tcp:10.0.0.0/24:80", "tcp", "10.0.0.9:80", true, true},
		{"tcp:10.0.0.0/24:80", "tcp", "10.0.1.9:80", false, false},
		{"tcp:127.0.0.1:22", "tcp", "127.0.0.1:22", true, true},
		{"tcp:127.0.0.1:22", "tcp", "127.1:22", false, true},
		{"tcp:127.0.0.1:22", "tcp", "2130706433:22", false, true},
		{"tcp:127.0.0.1:22", "tcp", "0x7f.0.0.1:22", false, true},
		{"tcp:127.0.0.1:22", "tcp", "0177.0.0.01:22", false, true},
		{"tcp:127.0.0.1:22", "tcp", "0x7f000001:22", false, true},
		{"tcp:127.0.0.1:22", "tcp", "127.2:22", false, false},
		{"tcp:127.0.0.1:22", "tcp", "0.0.0.0:22", false, true}, // the machine itself
		{"tcp:127.0.0.1:22", "tcp", "[::]:22", false, true},
		{"tcp:127.0.0.1:22", "tcp", ":22", false, true},
		{"tcp:127.0.0.1:22", "tcp", "LocalHost:22", false, true},
		{"tcp:[::1]:22", "tcp", "x.localhost.:22", false, true},
		{"tcp:10.0.0.1:22", "tcp", "localhost:22", false, false},
		{"tcp:127.0.0.1:22", "tcp", "127.0.0.1", false, true}, // no port: nobody knows
		{"tcp:127.0.0.1:22", "", "127.0.0.1:22", false, true},
		{"tcp:*:443", "tcp", "Example.com.:443", true, true},
		{"tcp:*:443", "tcp", "[fe80::1%eth0]:443", true, true},
		{"tcp:*:443", "tcp", "1.2:443", false, true},
		{"tcp:*:*", "tcp", "x:12", true, true},
		{"tcp:*", "tcp", "x:12", true, true},
		{"*:*", "udp", "x:12", true, true},
		{"*:*", "unix", "/x", true, true},
		{"*:*:53", "udp", "x:53", true, true},
		{"*:*:53", "unix", "/x", false, false},
		{"tcp:*.example.com:443", "tcp", "a.EXAMPLE.com:443", true, true},
		{"tcp:*.example.com:443", "tcp", "a.b.example.com:443", false, true},
		{"tcp:*.example.com:443", "tcp", "a.example.com.evil.org:443", false, false},
		{"tcp:**.example.com:443", "tcp", "a.b.example.com:443", true, true},
		{"tcp:1e100.net:443", "tcp", "1e100.net:443", true, true},
		{"tcp:[fd00::1]:80", "tcp6", "[FD00:0::1]:80", true, true},
		{"tcp:[fd00::/8]:80", "tcp", "[fd12::1]:80", true, true},
		{"tcp:[fd00::/8]:80", "tcp", "[fe12::1]:80", false, false},
		{"tcp:[fe80::1]:80", "tcp", "[fe80::1%eth0]:80", false, true},
		{"tcp:[fe80::1%eth0]:80", "tcp", "[fe80::1%eth0]:80", true, true},
		{"tcp:[fe80::1%eth0]:80", "tcp", "[fe80::1%eth1]:80", false, true},
		{"tcp:[fe80::1%*]:80", "tcp", "[fe80::1%eth1]:80", true, true},
		{"unix:/run/app/*", "unix", "/run/app/x", true, true},
		{"unix:/run/app/*", "unix", "/run/app/x/y", false, true},
		{"unix:/run/app/*", "unix", "/run/app/../docker.sock", false, false},
		{"unix:/run/app/*", "unix", "run/app/x", false, true},
		{"unix:/run/app/*", "unixgram", "/run/app/x", false, false},
		{"unix:/run/**", "unix", "/run/app/x/y", true, true},
		{"unix:*", "unix", "@abstract", true, true},
		{"unix:/**", "unix", "@/abstract", false, false},
		{"unix:@app", "unix", "@app", true, true},
		{"unix:@app*", "unix", "@app1", true, true},
	} {
		d, err := parsePlace(tt.place)
		if err != nil {
			t.Errorf("%s: %v", tt.place, err)
			continue
		}
		a := parseAddress(tt.network, tt.address)
		if got := d.allows(a); got != tt.allow {
			t.Errorf("%s allows %s %s (read as %s): %t", tt.place, tt.network, tt.address, a, got)
		}
		if got := d.denies(a); got != tt.deny {
			t.Errorf("%s denies %s %s (read as %s): %t", tt.place, tt.network, tt.address, a, got)
		}
	}
	for _, bad := range []string{
		"", "tcp", "tcp:", "tcp:x", "tcp:x:http", "tcp:x:8*", "tcp:x:70000", "tcp:x:-1", "tcp:10.0.0.1*:80", "tcp:10.0.*:80", "tcp:10.0.0.?:80",
		"tcp:127.1:80", "tcp:0x7f.0.0.1:80", "tcp:010.0.0.1:80", "tcp:a b:80", "tcp:x%eth0:80", "unix:x", "unix:/x/", "unix:/x/../y", "sctp:x:1",
	} {
		if d, err := parsePlace(bad); err == nil {
			t.Errorf("%q was taken: %+v", bad, d)
		}
	}
}

// TestSocketsAreHeld: whoever a rule lets connect, or does not, by the path of a
// socket, is held to that path.
func TestSocketsAreHeld(t *testing.T) {
	dial := func(network, address string) Call {
		return CallOf(guestv1.ForwardService_Dial_FullMethodName, &guestv1.DialRequest{Message: &guestv1.DialRequest_Open{Open: &guestv1.DialOpen{Network: network, Address: []byte(address)}}})
	}
	for text, want := range map[string]bool{
		"[[roles.a.allow]]\ndial=['unix:/run/app/*']":     true,
		"[[roles.a.allow]]\nmethods=['ForwardService/*']": false,
		"profile='full'": false,
		"profile='full'\n[[roles.a.deny]]\ndial=['unix:/run/docker.sock']": true,
	} {
		d := mustParse(t, "[roles.a]\nkeys=['*']\n"+text).Decide(ci, dial("unix", "/run/app/x"), world)
		if !d.Allowed || d.NoLinks != want {
			t.Errorf("%s: %+v", text, d)
		}
	}
}
