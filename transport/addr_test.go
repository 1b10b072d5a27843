package transport

import (
	"errors"
	"strings"
	"testing"
)

func TestParseAddr(t *testing.T) {
	tests := []struct {
		in     string
		want   Addr
		string string // the canonical form, if it is not in
	}{
		{in: "vsock:3:1024", want: VsockAddr(3, 1024)},
		{in: "vsock:3", want: VsockAddr(3, AgentPort), string: "vsock:3:1000"},
		{in: "vsock:3:0", want: VsockAddr(3, 0)},
		{in: "vsock:4294967294:4294967294", want: VsockAddr(0xfffffffe, 0xfffffffe)},
		{in: "vsock:host:7", want: VsockAddr(CIDHost, 7), string: "vsock:2:7"},
		{in: "vsock:local", want: VsockAddr(CIDLocal, AgentPort), string: "vsock:1:1000"},
		{in: "vsock:any", want: VsockAddr(CIDAny, AgentPort), string: "vsock:any:1000"},
		{in: "vsock:-1:22", want: VsockAddr(CIDAny, 22), string: "vsock:any:22"},
		{in: "vsock:4294967295:22", want: VsockAddr(CIDAny, 22), string: "vsock:any:22"},
		{in: "vsock:any:-1", want: VsockAddr(CIDAny, PortAny), string: "vsock:any:any"},
		{in: "vsock:any:any", want: VsockAddr(CIDAny, PortAny)},
		{in: "vsock-mux:/run/fc.sock:1000", want: MuxAddr("/run/fc.sock", 1000)},
		{in: "vsock-mux:/run/a:b/c:d:0", want: MuxAddr("/run/a:b/c:d", 0)},
		{in: "vsock-mux:v.sock:1", want: MuxAddr("v.sock", 1)},
		{in: "vsock-mux:///run/fc.sock:52", want: MuxAddr("/run/fc.sock", 52), string: "vsock-mux:/run/fc.sock:52"},
		{in: "unix:/run/a.sock", want: UnixAddr("/run/a.sock")},
		{in: "unix:///run/a.sock", want: UnixAddr("/run/a.sock"), string: "unix:/run/a.sock"},
		{in: "unix:////run/a.sock", want: UnixAddr("/run/a.sock"), string: "unix:/run/a.sock"},
		{in: "unix:a.sock", want: UnixAddr("a.sock")},
		{in: "unix:@abstract", want: UnixAddr("@abstract")},
		{in: "unix:/a b%20?#:\xff", want: UnixAddr("/a b%20?#:\xff")},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseAddr(tt.in)
			if err != nil || got != tt.want {
				t.Fatalf("ParseAddr = %#v, %v; want %#v", got, err, tt.want)
			}
			want := tt.string
			if want == "" {
				want = tt.in
			}
			if got.String() != want {
				t.Errorf("String = %q, want %q", got, want)
			}
			if got.Network() != got.Net {
				t.Errorf("Network = %q, want %q", got.Network(), got.Net)
			}
		})
	}
}

func TestParseAddrErrors(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", "no scheme"},
		{"3", "no scheme"},
		{"/run/a.sock", "no scheme"},
		{"tcp:127.0.0.1:1", `unknown scheme "tcp"`},
		{"VSOCK:3:1", "unknown scheme"},
		{"vsock://3:1024", "write vsock:3:1024"},
		{"vsock:///3:1024", "write vsock:3:1024"},
		{"vsock:", "empty CID"},
		{"vsock::1024", "empty CID"},
		{"vsock:3:", "empty port"},
		{"vsock:0:1024", "CID 0 is reserved"},
		{"vsock:hypervisor:1", "not a decimal number"},
		{"vsock:4294967296:1", "CID 4294967296 is out of range"},
		{"vsock:3:4294967296", "port 4294967296 is out of range"},
		{"vsock:3:99999999999999999999999", "out of range"},
		{"vsock:3:-2", "not a decimal number"},
		{"vsock:+3:1", "not a decimal number"},
		{"vsock:0x3:1", "not a decimal number"},
		{"vsock:3:host", "not a decimal number"},
		{"vsock:3:1:2", "not a decimal number"},
		{"vsock: 3:1", "not a decimal number"},
		{"vsock:3:1/", "not a decimal number"},
		{"vsock-mux:/run/fc.sock", "no port"},
		{"vsock-mux:/a:b/c", "no port"},
		{"vsock-mux:/run/fc.sock:", "empty port"},
		{"vsock-mux:/run/fc.sock:x", "not a decimal number"},
		{"vsock-mux:/run/fc.sock:any", "needs a port of its own"},
		{"vsock-mux:/run/fc.sock:4294967296", "out of range"},
		{"vsock-mux::1000", "empty path"},
		{"vsock-mux://run/fc.sock:1000", "no host part"},
		{"unix:", "empty path"},
		{"unix://run/a.sock", "no host part"},
		{"unix:/a\x00b", "zero byte"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			a, err := ParseAddr(tt.in)
			if err == nil {
				t.Fatalf("ParseAddr = %v, want an error with %q", a, tt.want)
			}
			if a != (Addr{}) {
				t.Errorf("ParseAddr returned %v with its error", a)
			}
			if !errors.Is(err, ErrBadAddress) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want a bad address with %q", err, tt.want)
			}
		})
	}
}

func FuzzParseAddr(f *testing.F) {
	for _, s := range []string{
		"vsock:3:1024", "vsock:any", "vsock:-1:-1", "vsock://3:1", "vsock-mux:/a:b:1", "vsock-mux:///a:4294967295",
		"unix:/x", "unix:////x", "unix:@x", "unix:", "vsock-mux:a/:0",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddr(s)
		if err != nil {
			if a != (Addr{}) || !errors.Is(err, ErrBadAddress) {
				t.Fatalf("ParseAddr(%q) = %v, %v", s, a, err)
			}
			return
		}
		again, err := ParseAddr(a.String())
		if err != nil || again != a {
			t.Fatalf("%q parses to %#v, which prints as %q, which parses to %#v, %v", s, a, a, again, err)
		}
		// What can be dialed can be a gRPC target, whatever its path is.
		if checkDial(a, &DialConfig{}) != nil {
			return
		}
		if got := resolvedAddr(t, targetURL(a)); got != a.String() {
			t.Fatalf("target %q of %q resolves to %q", targetURL(a), a, got)
		}
	})
}
