package nested

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/vsockrpc/vsockrpc/transport"
)

// envHelper makes this test binary tell, inside of a guest, how the guest sees
// the host.
const envHelper = "NESTED_HELPER"

// helperPort is where it listens.
const helperPort = 2000

func TestMain(m *testing.M) {
	if os.Getenv(envHelper) != "" {
		if err := tellPeer(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// tellPeer takes one connection, and prints this machine's CID and the peer's.
func tellPeer() error {
	ctx := context.Background()
	l, err := transport.Listen(ctx, transport.VsockAddr(transport.CIDAny, helperPort), nil)
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println("listening")
	c, err := l.AcceptConn()
	if err != nil {
		return err
	}
	defer c.Close()
	cid, err := transport.LocalCID()
	if err != nil {
		return err
	}
	_, err = fmt.Printf("I am %d, the peer is %d\n", cid, c.Peer().CID)
	return err
}
