package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseForward(t *testing.T) {
	usual := []string{"127.0.0.1"}
	tests := []struct{ arg, network, listenNet, listen, targetNet, target string }{
		{"80", "tcp", "tcp", "127.0.0.1:80", "tcp", "localhost:80"},
		{":80", "tcp", "tcp", "127.0.0.1:0", "tcp", "localhost:80"},
		{"0:80", "tcp", "tcp", "127.0.0.1:0", "tcp", "localhost:80"},
		{"8080:80", "tcp", "tcp", "127.0.0.1:8080", "tcp", "localhost:80"},
		{"8080:80/tcp", "tcp", "tcp", "127.0.0.1:8080", "tcp", "localhost:80"},
		{"5353:53/udp", "udp", "udp", "127.0.0.1:5353", "udp", "localhost:53"},
		{"0.0.0.0:8080:80", "tcp", "tcp", "0.0.0.0:8080", "tcp", "localhost:80"},
		{"*:8080:80", "tcp", "tcp", ":8080", "tcp", "localhost:80"},
		{"[::1]:8080:80", "tcp", "tcp", "[::1]:8080", "tcp", "localhost:80"},
		{"localhost::80", "tcp", "tcp", "localhost:0", "tcp", "localhost:80"},
		{"db:5432", "tcp", "tcp", "127.0.0.1:5432", "tcp", "db:5432"},
		{"6000:db:5432", "tcp", "tcp", "127.0.0.1:6000", "tcp", "db:5432"},
		{":db:5432", "tcp", "tcp", "127.0.0.1:0", "tcp", "db:5432"},
		{"10.0.0.1:6000:10.0.0.2:5432", "tcp", "tcp", "10.0.0.1:6000", "tcp", "10.0.0.2:5432"},
		{"6000:[fe80::1%eth0]:53/udp", "udp", "udp", "127.0.0.1:6000", "udp", "[fe80::1%eth0]:53"},
		{"[::1]:80", "tcp", "tcp", "127.0.0.1:80", "tcp", "[::1]:80"},
		{"/run/x.sock", "tcp", "tcp", "127.0.0.1:0", "unix", "/run/x.sock"},
		{"8080:/run/x.sock", "tcp", "tcp", "127.0.0.1:8080", "unix", "/run/x.sock"},
		{"::1:8080:/run/x/udp", "", "", "", "", "too many colons"},
		{"8080:/run/x/udp", "tcp", "tcp", "127.0.0.1:8080", "unix", "/run/x/udp"},
		{"8080:@name", "tcp", "tcp", "127.0.0.1:8080", "unix", "@name"},
		{"/tmp/s:80", "tcp", "unix", "/tmp/s", "tcp", "localhost:80"},
		{"./s:db:80", "tcp", "unix", "./s", "tcp", "db:80"},
		{"/tmp/s:/run/x", "tcp", "unix", "/tmp/s", "unix", "/run/x"},
		{"", "", "", "", "", `"" is no port`},
		{":", "", "", "", "", `"" is no port`},
		{"0", "", "", "", "", `"0" is no port`},
		{"80:", "", "", "", "", `"" is no port`},
		{"80:65536", "", "", "", "", "no port"},
		{"-1", "", "", "", "", "no port"},
		{"+1", "", "", "", "", "no port"},
		{"99999:80", "", "", "", "", `"99999" is no port`},
		{"8080:99999:80", "", "", "", "", `"99999" is no port`},
		{"99999:db:80", "", "", "", "", "no port"},
		{"80:80/sctp", "", "", "", "", "neither tcp nor udp"},
		{"/tmp/s:53/udp", "", "", "", "", "datagrams do not go with a path"},
		{"::80:80", "", "", "", "", "too many colons"},
		{":80:80", "", "", "", "", "an empty ADDR"},
		{"a:/tmp/s:80", "", "", "", "", "a path has no ADDR"},
		{"1:2:3:4", "", "", "", "", "too many colons"},
		{"[::1:80", "", "", "", "", "[ without ]"},
		{"[::1]80", "", "", "", "", "text after ]"},
		{"[host]:80", "", "", "", "", "no IP address"},
	}
	for _, tt := range tests {
		got, err := parseForward(tt.arg, usual)
		if tt.network == "" {
			if err == nil || !strings.Contains(err.Error(), tt.target) {
				t.Errorf("%q: %v, %v; want an error with %q", tt.arg, got, err, tt.target)
			}
			continue
		}
		want := []forwardSpec{{tt.network, endpoint{tt.listenNet, tt.listen}, endpoint{tt.targetNet, tt.target}}}
		if err != nil || !cmp.Equal(got, want, cmp.AllowUnexported(forwardSpec{}, endpoint{})) {
			t.Errorf("%q: %v, %v; want %v", tt.arg, got, err, want)
		}
	}
	if got, err := parseForward("8080:80", []string{"127.0.0.1", "::1"}); err != nil || len(got) != 2 || got[1].listen.addr != "[::1]:8080" {
		t.Errorf("two addresses: %v, %v", got, err)
	}
}

func TestParseTarget(t *testing.T) {
	tests := []struct {
		arg  string
		want endpoint
		ok   bool
	}{
		{"22", endpoint{"tcp", "localhost:22"}, true},
		{"db:22", endpoint{"tcp", "db:22"}, true},
		{"[::1]:22", endpoint{"tcp", "[::1]:22"}, true},
		{"/run/s:1", endpoint{"unix", "/run/s:1"}, true},
		{"", endpoint{}, false},
		{":22", endpoint{}, false},
		{"0", endpoint{}, false},
		{"a:b:22", endpoint{}, false},
		{"99999:22", endpoint{}, false},
		{"ssh", endpoint{}, false},
	}
	for _, tt := range tests {
		got, err := parseTarget(tt.arg)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%q: %v, %v", tt.arg, got, err)
		}
	}
}

func FuzzParseForward(f *testing.F) {
	f.Add("127.0.0.1:8080:[::1]:80/udp")
	f.Add("/tmp/s:/run/x")
	f.Fuzz(func(t *testing.T, arg string) {
		specs, err := parseForward(arg, []string{"127.0.0.1"})
		if (err == nil) != (len(specs) == 1) {
			t.Errorf("%q: %v, %v", arg, specs, err)
		}
	})
}
