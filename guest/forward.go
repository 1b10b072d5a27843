package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"

	guestv1 "github.com/vsockrpc/vsockrpc/proto/guest/v1"
)

// DialContext connects to an address from inside the guest: names are resolved
// there, and "localhost" is the guest. The network is "tcp", "tcp4", "tcp6",
// "udp", "udp4", "udp6", "unix" or "unixgram", as for net.Dial. It fits
// http.Transport.DialContext, database drivers and grpc.WithContextDialer.
//
// ctx bounds the dialing alone. The connection behaves as the net package's do:
// it has a CloseWrite method that ends one direction, and a connection that its
// end in the guest broke gives syscall.ECONNRESET. It has a Reset method that
// breaks it off. A lost connection to the guest breaks it too.
//
// The error is an [*Error], whose Reason says what the guest's kernel said, such
// as "connection-refused". The caller must close the connection.
func (g *Guest) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	open := &guestv1.DialOpen{Network: network, Address: []byte(addr)}
	if d, ok := ctx.Deadline(); ok {
		open.TimeoutMillis = uint64(max(time.Until(d).Milliseconds(), 1))
	}
	return g.openTunnel(ctx, "dial in the guest", guestv1.ForwardService_Dial_FullMethodName, network,
		&guestv1.DialRequest{Message: &guestv1.DialRequest_Open{Open: open}})
}

// openTunnel calls Dial or Accept, whose messages have the same members, and
// exchanges the opening messages.
func (g *Guest) openTunnel(ctx context.Context, op, method, network string, first any) (net.Conn, error) {
	// The call lives as long as the connection, not as long as the dialing.
	callCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	opened, stream, err := openStream(callCtx, g.conn, method, first)
	if err != nil || !stop() {
		cancel()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, g.wrap(op, method, err)
	}
	datagrams := strings.HasPrefix(network, "udp") || network == "unixgram"
	return newTunnel(stream, cancel, &g.tunnels,
		tunnelAddr{network, string(opened.GetLocalAddress())},
		tunnelAddr{network, string(opened.GetRemoteAddress())}, datagrams), nil
}

func openStream(ctx context.Context, cc grpc.ClientConnInterface, method string, first any) (*guestv1.TunnelOpened, grpc.ClientStream, error) {
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return nil, nil, err
	}
	// If the call has ended, RecvMsg says why.
	if err := stream.SendMsg(first); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	m := new(guestv1.DialResponse)
	if err := stream.RecvMsg(m); err != nil {
		if errors.Is(err, io.EOF) {
			err = protocolError("a tunnel ends before it is open")
		}
		return nil, nil, err
	}
	if m.GetOpened() == nil {
		return nil, nil, protocolError("the first message of a tunnel is not opened")
	}
	if n := max(len(m.GetOpened().GetLocalAddress()), len(m.GetOpened().GetRemoteAddress())); n > maxAddress {
		return nil, nil, protocolError("a tunnel has an address of %d bytes", n)
	}
	return m.GetOpened(), stream, nil
}

// maxAddress bounds the text of an address: more than a name, or a path, and a port.
const maxAddress = 4 << 10

// tunnelAddr is an address inside the guest, as the guest wrote it. The text may
// hold any character.
type tunnelAddr struct{ network, text string }

func (a tunnelAddr) Network() string { return a.network }
func (a tunnelAddr) String() string  { return a.text }
