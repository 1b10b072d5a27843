//go:build linux

package guest_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/vsockrpc/vsockrpc/agent/forward"
	"github.com/vsockrpc/vsockrpc/guest"
	"github.com/vsockrpc/vsockrpc/internal/wait"
	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
	"github.com/vsockrpc/vsockrpc/rpc"
	"github.com/vsockrpc/vsockrpc/transport"
	"github.com/vsockrpc/vsockrpc/transport/vmmtest"
)

// vmmGuest is as forwardGuest, with a simulated VMM in between.
func vmmGuest(t *testing.T, wire guest.Wire, faults vmmtest.Faults) (*guest.Guest, *vmmtest.VMM) {
	t.Helper()
	vmm := vmmtest.New(t)
	vmm.SetFaults(faults)
	l, err := vmm.Listen(transport.AgentPort)
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(nil)
	guestv1.RegisterAgentServiceServer(s, infoOnly{})
	guestv1.RegisterForwardServiceServer(s, forward.NewServer(nil))
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(l) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	g, err := guest.Dial(t.Context(), vmm.Addr(transport.AgentPort), &guest.Config{Wire: wire})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g, vmm
}

// TestTunnelBehindVMM: nothing of a tunnel depends on what a VMM makes of its
// own connections, above all not on their half-close, which Firecracker does not
// carry.
func TestTunnelBehindVMM(t *testing.T) {
	for name, faults := range map[string]vmmtest.Faults{
		"faultless":     {},
		"no half-close": {NoHalfClose: true},
		"small slices":  {NoHalfClose: true, ToGuest: vmmtest.Flow{Slice: 4 << 10}, ToHost: vmmtest.Flow{Slice: 4 << 10}, Seed: 1},
	} {
		for _, wire := range wires {
			t.Run(name+" "+string(wire), func(t *testing.T) {
				g, vmm := vmmGuest(t, wire, faults)
				testHalfClose(t, g)
				testBulk(t, g)
				testHalfClose(t, g)
				t.Run("restored from a snapshot", func(t *testing.T) {
					l := listenTCP(t)
					host, inGuest := dialPair(t, g, l)
					vmm.Reset()
					for _, c := range []net.Conn{host, inGuest} {
						if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
							t.Errorf("read: %v, want ECONNRESET", err)
						}
					}
					redial(t, g, l)
				})
			})
		}
	}
}

func TestTunnelIsAConnBehindVMM(t *testing.T) {
	g, _ := vmmGuest(t, guest.WireNative, vmmtest.Faults{NoHalfClose: true})
	testConn(t, g)
}

// redial makes a connection as soon as the guest can be reached again, and uses
// it.
func redial(t *testing.T, g *guest.Guest, l net.Listener) {
	t.Helper()
	go func() {
		for { // more than one, if a dial fails after the guest has connected
			inGuest, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(inGuest, "again")
			inGuest.Close()
		}
	}()
	var host net.Conn
	wait.For(t, "another connection", func() (ok bool) {
		var err error
		host, err = g.DialContext(t.Context(), "tcp", l.Addr().String())
		return err == nil
	})
	defer host.Close()
	if got, err := io.ReadAll(host); err != nil || string(got) != "again" {
		t.Fatalf("%q, %v", got, err)
	}
}
