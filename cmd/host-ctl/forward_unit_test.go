package main

import (
	"fmt"
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
		{"localhost::80", "tcp", "tcp", "127.0.0.1:0", "tcp", "localhost:80"},
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
		want := []forwardSpec{{network: tt.network, listen: endpoint{tt.listenNet, tt.listen}, target: endpoint{tt.targetNet, tt.target}}}
		if err != nil || !cmp.Equal(got, want, cmp.AllowUnexported(forwardSpec{}, endpoint{})) {
			t.Errorf("%q: %v, %v; want %v", tt.arg, got, err, want)
		}
	}
	if got, err := parseForward("8080:80", []string{"127.0.0.1", "::1"}); err != nil || len(got) != 2 || got[1].listen.addr != "[::1]:8080" {
		t.Errorf("two addresses: %v, %v", got, err)
	}
}

func TestParseForwardRanges(t *testing.T) {
	tests := []struct {
		arg  string
		want []string // LISTEN>TARGET
		err  string
	}{
		{arg: "8000-8002:9000-9002", want: []string{"127.0.0.1:8000>localhost:9000", "127.0.0.1:8001>localhost:9001", "127.0.0.1:8002>localhost:9002"}},
		{arg: "8000-8001", want: []string{"127.0.0.1:8000>localhost:8000", "127.0.0.1:8001>localhost:8001"}},
		{arg: "0.0.0.0:80-81:db:90-91", want: []string{"0.0.0.0:80>db:90", "0.0.0.0:81>db:91"}},
		{arg: "53-54:53-54/udp", want: []string{"127.0.0.1:53>localhost:53", "127.0.0.1:54>localhost:54"}},
		{arg: ":80-81", want: []string{"127.0.0.1:0>localhost:80", "127.0.0.1:0>localhost:81"}},
		{arg: "80-80", want: []string{"127.0.0.1:80>localhost:80"}},
		{arg: "localhost:80:90", want: []string{"127.0.0.1:80>localhost:90", "[::1]:80>localhost:90"}},
		{arg: "8000-8001:9000-9002", err: "not equally long"},
		{arg: "8001-8000", err: "runs backwards"},
		{arg: "1-65535", err: "more than 1024 ports"},
		{arg: "80-", err: "no port"},
		{arg: "-80", err: "no port"},
		{arg: "0-3", err: "no port"},
		{arg: "web-1:80", want: []string{"127.0.0.1:80>web-1:80"}},
	}
	for _, tt := range tests {
		specs, err := parseForward(tt.arg, []string{"127.0.0.1"})
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: %v, %v; want an error with %q", tt.arg, specs, err, tt.err)
			}
			continue
		}
		var got []string
		for _, s := range specs {
			got = append(got, s.listen.addr+">"+s.target.addr)
		}
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", tt.arg, err, diff)
		}
	}
}

// TestParseForwardFlags shows what -L, -R and -D add, and that no address is
// listened on twice.
func TestParseForwardFlags(t *testing.T) {
	f := &forwarder{addresses: []string{"127.0.0.1"}, local: []string{"1:2"}, remote: []string{"1:2", "*:3:db:4"},
		dynamic: []string{"1080", "[::1]:1081", "/tmp/socks"}}
	specs, err := f.parse([]string{"5:6"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range specs {
		got = append(got, fmt.Sprintf("%s>%s %v", s.listen, s.target, s.reverse))
	}
	want := []string{"127.0.0.1:5>localhost:6 false", "127.0.0.1:1>localhost:2 false", "127.0.0.1:1>localhost:2 true",
		":3>db:4 true", "127.0.0.1:1080>SOCKS5 false", "[::1]:1081>SOCKS5 false", "/tmp/socks>SOCKS5 false"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []*forwarder{
		{addresses: f.addresses, local: []string{"1:2", "1:3"}},
		{addresses: f.addresses, local: []string{"1:2"}, dynamic: []string{"1"}},
		{addresses: f.addresses, local: []string{"8000:1-2"}},
		{addresses: f.addresses, remote: []string{"53/udp"}},
		{addresses: f.addresses, dynamic: []string{"a"}},
		{addresses: f.addresses, dynamic: []string{"1:2:3"}},
		{addresses: f.addresses, dynamic: []string{""}},
	} {
		if specs, err := bad.parse(nil); err == nil {
			t.Errorf("%v %v %v: %v", bad.local, bad.remote, bad.dynamic, specs)
		}
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
	f.Add("8000-8002:9000-9002")
	f.Fuzz(func(t *testing.T, arg string) {
		specs, err := parseForward(arg, []string{"127.0.0.1"})
		if (err == nil) != (len(specs) >= 1) || len(specs) > 2*maxRange {
			t.Errorf("%q: %v, %v", arg, specs, err)
		}
	})
}
