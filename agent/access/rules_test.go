package access

import (
	"strings"
	"testing"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
)

// hybridPort is the first source port that a guest sees behind Firecracker.
const hybridPort = 1 << 30

func vsockPeer(cid, port uint32) transport.Peer {
	return transport.Peer{Network: transport.NetworkVsock, CID: cid, Port: port}
}

func unixPeer(uid uint32) transport.Peer {
	return transport.Peer{Network: transport.NetworkUnix, UID: uid, GID: uid, PID: 4242, HasCreds: true}
}

func TestDecide(t *testing.T) {
	const own = 1000
	hostRoot := Rules{UID: own}
	host := Rules{Mode: ModeHost, UID: own}
	tests := []struct {
		name    string
		rules   Rules
		peer    transport.Peer
		connect bool
		trusted bool
		rule    string
		remedy  string // a part of it
	}{
		{"host root", hostRoot, vsockPeer(2, 900), true, true, RuleHostRoot, ""},
		{"host root, port 0", hostRoot, vsockPeer(2, 0), true, true, RuleHostRoot, ""},
		{"host root, last port", hostRoot, vsockPeer(2, 1023), true, true, RuleHostRoot, ""},
		{"host user, first port", hostRoot, vsockPeer(2, 1024), true, false, RuleHostRoot, "--peer=host"},
		{"hybrid port", hostRoot, vsockPeer(2, hybridPort+5), true, false, RuleHostRoot, "guest-agent.peer=host"},
		{"largest port", hostRoot, vsockPeer(2, 1<<32-1), true, false, RuleHostRoot, "--peer=host"},
		{"loopback", hostRoot, vsockPeer(1, 900), false, false, RuleCID, "--allow-cid=1"},
		{"sibling", hostRoot, vsockPeer(7, 900), false, false, RuleCID, "--allow-cid=7"},
		{"hypervisor CID", hostRoot, vsockPeer(0, 900), false, false, RuleCID, "CID 2"},
		{"CID any", hostRoot, vsockPeer(1<<32-1, 900), false, false, RuleCID, "CID 2"},

		{"mode host", host, vsockPeer(2, hybridPort+5), true, true, RuleHost, ""},
		{"mode host, root", host, vsockPeer(2, 900), true, true, RuleHost, ""},
		{"mode host, loopback", host, vsockPeer(1, 900), false, false, RuleCID, "--allow-cid=1"},
		{"mode host, sibling", host, vsockPeer(7, hybridPort+5), false, false, RuleCID, "--allow-cid=7"},

		{"auto unresolved", Rules{Mode: ModeAuto}, vsockPeer(2, hybridPort+5), true, false, RuleHostRoot, "--peer=host"},
		{"unknown mode", Rules{Mode: "nonsense"}, vsockPeer(2, hybridPort+5), true, false, RuleHostRoot, "--peer=host"},

		{"allowed CID, root", Rules{AllowCIDs: []uint32{3, 7}}, vsockPeer(7, 900), true, true, RuleHostRoot, ""},
		{"allowed CID, user", Rules{AllowCIDs: []uint32{3, 7}}, vsockPeer(7, 5000), true, false, RuleHostRoot, "--peer=host"},
		{"allowed CID, mode host", Rules{Mode: ModeHost, AllowCIDs: []uint32{1}}, vsockPeer(1, 5000), true, true, RuleHost, ""},
		{"another CID than allowed", Rules{AllowCIDs: []uint32{3}}, vsockPeer(7, 900), false, false, RuleCID, "--allow-cid=7"},

		{"unix, same uid", hostRoot, unixPeer(own), true, true, RuleSameUID, ""},
		{"unix, root", hostRoot, unixPeer(0), true, true, RuleRoot, ""},
		{"unix, other uid", hostRoot, unixPeer(1001), true, false, RuleSameUID, "uid 1000"},
		{"unix, mode host changes nothing", host, unixPeer(1001), true, false, RuleSameUID, "uid 1000"},
		{"unix, nobody", Rules{}, unixPeer(65534), true, false, RuleSameUID, "uid 0"},
		{"unix, uid -1", Rules{}, unixPeer(1<<32 - 1), true, false, RuleSameUID, "uid 0"},
		{"unix, no credentials", Rules{}, transport.Peer{Network: transport.NetworkUnix}, true, false, RuleUnknown, "which user"},

		{"nothing known", hostRoot, transport.Peer{}, true, false, RuleUnknown, "over vsock"},
		{"nothing known, mode host", host, transport.Peer{}, true, false, RuleUnknown, "over vsock"},
		{"vsock-mux", host, transport.Peer{Network: transport.NetworkMux, HasCreds: true}, true, false, RuleUnknown, "over vsock"},
		{"unknown network with good looks", host, transport.Peer{Network: "tcp", CID: 2, Port: 900, HasCreds: true}, true, false, RuleUnknown, "over vsock"},

		{"embedded", Rules{Mode: ModeEmbedded}, transport.Peer{}, true, true, RuleEmbedded, ""},
		{"embedded, unix", Rules{Mode: ModeEmbedded}, unixPeer(1001), true, true, RuleEmbedded, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := tt.rules.Decide(tt.peer)
			if d.Connect != tt.connect || d.Trusted != tt.trusted || d.Rule != tt.rule {
				t.Errorf("got connect %t, trusted %t, rule %q; want %t, %t, %q", d.Connect, d.Trusted, d.Rule, tt.connect, tt.trusted, tt.rule)
			}
			if d.Trusted != (d.Remedy == "") {
				t.Errorf("trusted %t with the remedy %q", d.Trusted, d.Remedy)
			}
			if !strings.Contains(d.Remedy, tt.remedy) {
				t.Errorf("remedy %q does not say %q", d.Remedy, tt.remedy)
			}
		})
	}
}

func TestPeerOf(t *testing.T) {
	want := vsockPeer(2, 900)
	if got := PeerOf(transport.AuthInfo{Peer: want}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := PeerOf(rpc.AuthInfo{Transport: transport.AuthInfo{Peer: want}}); got != want {
		t.Errorf("below TLS: got %v, want %v", got, want)
	}
	_, other, err := insecure.NewCredentials().ServerHandshake(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, info := range map[string]credentials.AuthInfo{"none": nil, "of another kind": other, "none below TLS": rpc.AuthInfo{}} {
		if got := PeerOf(info); got != (transport.Peer{}) {
			t.Errorf("AuthInfo %s: got %v, want the zero Peer", name, got)
		}
	}
}

func TestParseMode(t *testing.T) {
	for _, s := range []string{"host-root", "host", "auto"} {
		if m, err := ParseMode(s); err != nil || string(m) != s {
			t.Errorf("%s: got %q, %v", s, m, err)
		}
	}
	// Nobody may switch the rules off from outside.
	for _, s := range []string{"", "embedded", "Host", "any", "none", "host "} {
		if m, err := ParseMode(s); err == nil {
			t.Errorf("%q was taken as %q", s, m)
		}
	}
}
